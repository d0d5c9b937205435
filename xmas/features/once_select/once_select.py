"""OnceSelect's selector: a classifier of CLIP clusters that is stopped while it is still unsure.

It learns from the rows nearest each centroid which cluster a picture and its questions belong to.
Trained once, it is a folder that stands alone and scores any pool embedded by the same CLIP.
"""

import csv
import dataclasses
import json
import logging
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xmas.features.clip.clip import ClipEmbeddings
from xmas.features.clip.embedded import Embedded, joint
from xmas.features.clustering.kmeans import kmeans
from xmas.features.once_select.classifier import GatedClassifier, Network, Pairs, judge, learn
from xmas.store import Stage, Store
from xmas.store.progress import bar

log = logging.getLogger(__name__)

SAID = "human"  # the turns that OnceSelect looks at: questions, never answers


@dataclasses.dataclass(frozen=True)
class OnceSelect(Stage):
    """`selector.pt` weights; `centroids.npy` (k, 2d) float32; `selector.json` shape, CLIP and the
    epoch that was taken; `epochs.csv`. The first three are all that scoring another pool needs.

    Pseudo-labels are the k-means clusters of the joint vectors of picture and questions; the rows
    nearest each centroid are learnt from. Of all epochs the one is kept whose macro accuracy on
    those of them that are held out is closest to `accuracy`, the earlier of two.

    Deviations from the release: FAISS's k-means on a sample of the rows stands for ten runs of
    scikit-learn's MiniBatchKMeans, which is no dependency here; centroids are means of its rows,
    and empty clusters are left out. A cluster of one row is not learnt, since nothing would be
    left to hold out.
    Source: OnceSelect (arXiv 2605.26761), its release as described in its scripts; its published
    checkpoint minds no coverage (`covering: false`).
    """

    kind: ClassVar[str] = "once_select"

    clip: ClipEmbeddings
    k: int = 128  # clusters
    iterations: int = 100
    per_centroid: int | None = 1024  # rows that k-means learns from, times k; null: all
    nearest: float = 0.03  # of a cluster's rows, those nearest its centroid; at least 2
    held_out: float = 0.2  # of these; at least 1
    network: Network = dataclasses.field(default_factory=Network)
    batch: int = 1024
    rate: float = 1e-5
    decay: float = 1e-4
    epochs: int = 100
    accuracy: float = 0.6  # macro, on what is held out: where training should have stopped
    covering: bool = False  # only epochs that predict every cluster
    seed: int = 42  # of k-means, split, weights, batches and dropout

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: too few rows with picture and question, or no epoch covers."""
        seen = self.clip.open(store)
        centroids = self._centroids(seen)
        labels, distances = assign(seen, centroids)
        train, held = self._core(labels, distances)
        log.info("%d rows are learnt from, %d are held out", len(train), len(held))
        learnt, tested = (
            Pairs(*map(torch.from_numpy, (*pairs(seen, rows), labels[rows])))
            for rows in (train, held)
        )
        state, chosen = self._fit(seen.width, len(centroids), learnt, tested, out)
        torch.save(state, out / "selector.pt")
        np.save(out / "centroids.npy", centroids)
        about = {
            "clip": seen.weights,
            "width": seen.width,
            "k": len(centroids),
            "network": dataclasses.asdict(self.network),
            "learnt_from": len(train),
            "held_out": len(held),
            "chosen": chosen,
        }
        (out / "selector.json").write_text(json.dumps(about, indent=2))

    def _centroids(self, seen: Embedded) -> Float[np.ndarray, "k joint"]:
        rng = np.random.default_rng(self.seed)
        rows = rng.permutation(np.flatnonzero(seen.picture[:] >= 0))
        if self.per_centroid is not None:
            rows = rows[: self.k * self.per_centroid]
        points = joint(*pairs(seen, np.sort(rows)))
        points = points[np.isfinite(points).all(axis=1)]
        if len(points) < self.k:
            raise ValueError(
                f"{self.k} clusters of {len(points)} rows with a picture and a question; "
                "set features.pseudo_labels.trained.k lower"
            )
        labels = kmeans(
            points, self.k, seed=self.seed, iterations=self.iterations, per_centroid=None
        )
        means = [points[labels == label].mean(axis=0) for label in np.unique(labels)]
        return np.stack(means)

    def _core(
        self, labels: Int[np.ndarray, " rows"], distances: Float[np.ndarray, " rows"]
    ) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " held"]]:
        """Rows nearest each centroid, split cluster by cluster; ties by row."""
        rng = np.random.default_rng(self.seed)
        train, held = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for cluster in range(labels.max() + 1):
            rows = np.flatnonzero(labels == cluster)
            count = min(len(rows), max(2, int(np.ceil(self.nearest * len(rows)))))
            core = rng.permutation(rows[np.argsort(distances[rows], kind="stable")[:count]])
            if count >= 2:
                apart = min(count - 1, max(1, round(self.held_out * count)))
                held.append(core[:apart])
                train.append(core[apart:])
        return np.concatenate(train), np.concatenate(held)

    def _fit(
        self, width: int, k: int, learnt: Pairs, tested: Pairs, out: Path
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The weights of the chosen epoch, and its line of `epochs.csv`."""
        lines: list[dict[str, float]] = []
        best: dict[str, float] = {}
        state: dict[str, Tensor] = {}
        wanted = len(tested.labels.unique()) if self.covering else 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = GatedClassifier(self.network, width, k)
            optimizer = torch.optim.AdamW(model.parameters(), lr=self.rate, weight_decay=self.decay)
            for epoch in bar(range(1, self.epochs + 1), label="once select", unit="epoch"):
                loss = learn(model, optimizer, learnt, batch=self.batch)
                line = {"epoch": float(epoch), "loss": loss} | judge(model, tested)
                lines.append(line)
                if line["covered"] >= wanted and (not best or self._off(line) < self._off(best)):
                    best = line
                    state = {name: held.clone() for name, held in model.state_dict().items()}
        with (out / "epochs.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, lines[0])
            table.writeheader()
            table.writerows(lines)
        if not best:
            raise ValueError(f"none of {self.epochs} epochs predicts all {wanted} clusters")
        if self._off(best) > 0.1:
            log.warning(
                "macro accuracy %.2f is wanted, of %d epochs the closest has %.2f: change "
                "features.pseudo_labels.trained.rate, epochs or k",
                self.accuracy, self.epochs, best["macro"],
            )  # fmt: skip
        return state, best

    def _off(self, line: dict[str, float]) -> float:
        return abs(line["macro"] - self.accuracy)


def assign(
    seen: Embedded, centroids: Float[np.ndarray, "k joint"]
) -> tuple[Int[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """`nearest` of every row."""
    found = [nearest(*pairs(seen, rows), centroids) for rows in seen.blocks()]
    labels, distances = zip(*found, strict=True)
    return np.concatenate(labels), np.concatenate(distances)


def nearest(
    image: Float[np.ndarray, "rows d"],
    text: Float[np.ndarray, "rows d"],
    centroids: Float[np.ndarray, "k joint"],
) -> tuple[Int[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """The nearest centroid of every row and the squared distance to it; -1 and NaN on rows without
    a picture or without a question.
    """
    apart = 1 + (centroids**2).sum(axis=1) - 2 * joint(image, text) @ centroids.T  # of unit vectors
    labels = np.where(np.isnan(apart[:, 0]), -1, apart.argmin(axis=1))
    return labels, apart.min(axis=1)


def pairs(
    seen: Embedded, rows: Int[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, "rows d"], Float[np.ndarray, "rows d"]]:
    """What the classifier looks at: a row's picture and the mean of its questions."""
    return seen.images(rows), seen.texts(rows, SAID)
