"""OnceSelect's selector: a classifier of CLIP clusters whose training stops early.

It learns the cluster of an image and its questions from the rows nearest each centroid. Trained
once, its folder is self-contained and scores any pool embedded by the same CLIP.
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
from xmas.features.clustering.cluster_count import ClusterCount, clusters_of
from xmas.features.clustering.enough_rows import check_enough
from xmas.features.clustering.kmeans import kmeans
from xmas.features.once_select.classifier import (
    GatedClassifier,
    Network,
    Pairs,
    evaluate,
    train_epoch,
)
from xmas.store import Stage, Store
from xmas.store.progress import bar

log = logging.getLogger(__name__)

SPEAKER = "human"  # the turns that OnceSelect uses: questions, never answers


@dataclasses.dataclass(frozen=True)
class OnceSelect(Stage):
    """A classifier of CLIP clusters, trained until it reaches a given accuracy.

    Writes `selector.pt`, weights; `centroids.npy` (k, 2d) float32; `selector.json`: shape, CLIP and
    the chosen epoch; `epochs.csv`. The first three suffice to score another pool.

    Pseudo-labels are the k-means clusters of the joint vectors of image and questions. Training and
    held-out rows are those nearest each centroid. The chosen epoch is the one whose macro accuracy
    on the held-out rows is closest to `accuracy`, the earlier of two.

    Source: OnceSelect (arXiv 2605.26761) and the scripts of its release; its published checkpoint
    ignores coverage (`covering: false`). Deviations: FAISS's k-means on a sample of the rows
    replaces ten runs of scikit-learn's MiniBatchKMeans, which is no dependency here; centroids are
    means of the sampled rows, and empty clusters are left out; a cluster of one row has no training
    row, since one is held out of every cluster.

    Args:
        k: clusters; a `ClusterCount` depends on the rows with an image.
        per_centroid: rows that k-means trains on, times k; None: all.
        nearest: share of a cluster's rows, those nearest its centroid; at least 2 rows.
        held_out: share of these; at least 1 row.
        batch, rate, decay, epochs: of training by AdamW.
        accuracy: macro, on the held-out rows, at which training should have stopped.
        covering: only epochs that predict every cluster.
        seed: of k-means, split, weights, batches and dropout.
    """

    kind: ClassVar[str] = "once_select"

    clip: ClipEmbeddings
    k: int | ClusterCount = 128
    iterations: int = 100
    per_centroid: int | None = 1024
    nearest: float = 0.03
    held_out: float = 0.2
    network: Network = dataclasses.field(default_factory=Network)
    batch: int = 1024
    rate: float = 1e-5
    decay: float = 1e-4
    epochs: int = 100
    accuracy: float = 0.6
    covering: bool = False
    seed: int = 42

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: too few rows with image and question, or no epoch `covering` all."""
        embeddings = self.clip.open(store)
        centroids = self._centroids(embeddings)
        labels, distances = assign(embeddings, centroids)
        train, test = self._core(labels, distances)
        if not len(train):
            raise ValueError(
                f"none of the {len(centroids)} clusters has two rows with an image and a question, "
                "one to train on and one to test; set features.pseudo_labels.trained.k lower, or "
                "take a larger pool"
            )
        log.info("training on %d rows, %d are held out", len(train), len(test))
        train_pairs, test_pairs = (
            Pairs(*map(torch.from_numpy, (*pairs(embeddings, rows), labels[rows])))
            for rows in (train, test)
        )
        state, epoch_line = self._fit(
            embeddings.width, len(centroids), train_pairs, test_pairs, out
        )
        torch.save(state, out / "selector.pt")
        np.save(out / "centroids.npy", centroids)
        about = {
            "clip": embeddings.weights,
            "width": embeddings.width,
            "k": len(centroids),
            "network": dataclasses.asdict(self.network),
            "learnt_from": len(train),
            "held_out": len(test),
            "chosen": epoch_line,
        }
        (out / "selector.json").write_text(json.dumps(about, indent=2))

    def check(self, store: Store) -> None:
        """Raises ValueError: the pool has fewer rows than clusters."""
        setting = "features.pseudo_labels.trained.k"
        check_enough(setting, self.k, self.clip, store, pictured=True)

    def _centroids(self, embedded: Embedded) -> Float[np.ndarray, "k joint"]:
        rng = np.random.default_rng(self.seed)
        rows = rng.permutation(np.flatnonzero(embedded.picture[:] >= 0))
        k = clusters_of(self.k, len(rows))
        if self.per_centroid is not None:
            rows = rows[: k * self.per_centroid]
        points = joint(*pairs(embedded, np.sort(rows)))
        points = points[np.isfinite(points).all(axis=1)]
        if len(points) < k:
            raise ValueError(
                f"{k} clusters of {len(points)} rows with a picture and a question; "
                "set features.pseudo_labels.trained.k lower"
            )
        labels = kmeans(points, k, seed=self.seed, iterations=self.iterations, per_centroid=None)
        means = [points[labels == label].mean(axis=0) for label in np.unique(labels)]
        return np.stack(means)

    def _core(
        self, labels: Int[np.ndarray, " rows"], distances: Float[np.ndarray, " rows"]
    ) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]:
        """Training and held-out rows: the nearest of each centroid, ties by row, split."""
        rng = np.random.default_rng(self.seed)
        train, test = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for cluster in range(labels.max() + 1):
            rows = np.flatnonzero(labels == cluster)
            count = min(len(rows), max(2, int(np.ceil(self.nearest * len(rows)))))
            core = rng.permutation(rows[np.argsort(distances[rows], kind="stable")[:count]])
            if count >= 2:
                apart = min(count - 1, max(1, round(self.held_out * count)))
                test.append(core[:apart])
                train.append(core[apart:])
        return np.concatenate(train), np.concatenate(test)

    def _fit(
        self, width: int, k: int, train: Pairs, test: Pairs, out: Path
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The weights of the chosen epoch, and its line of `epochs.csv`."""
        lines: list[dict[str, float]] = []
        best: dict[str, float] = {}
        state: dict[str, Tensor] = {}
        least = len(test.labels.unique()) if self.covering else 0  # predicted clusters
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = GatedClassifier(self.network, width, k)
            optimizer = torch.optim.AdamW(model.parameters(), lr=self.rate, weight_decay=self.decay)
            for epoch in bar(range(1, self.epochs + 1), label="once select", unit="epoch"):
                loss = train_epoch(model, optimizer, train, batch=self.batch)
                line = {"epoch": float(epoch), "loss": loss} | evaluate(model, test)
                lines.append(line)
                if line["covered"] >= least and (not best or self._off(line) < self._off(best)):
                    best = line
                    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with (out / "epochs.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, lines[0])
            table.writeheader()
            table.writerows(lines)
        if not best:
            raise ValueError(
                f"none of {self.epochs} epochs predicts all {least} clusters; set "
                "features.pseudo_labels.trained.epochs higher, or covering=false"
            )
        if self._off(best) > 0.1:
            log.warning(
                "macro accuracy should be %.2f, the closest of %d epochs has %.2f: change "
                "features.pseudo_labels.trained.rate, epochs or k",
                self.accuracy, self.epochs, best["macro"],
            )  # fmt: skip
        return state, best

    def _off(self, line: dict[str, float]) -> float:
        return abs(line["macro"] - self.accuracy)


def assign(
    embedded: Embedded, centroids: Float[np.ndarray, "k joint"]
) -> tuple[Int[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """`nearest` of every row, block by block."""
    blocks = [nearest(*pairs(embedded, rows), centroids) for rows in embedded.blocks()]
    labels, distances = zip(*blocks, strict=True)
    return np.concatenate(labels), np.concatenate(distances)


def nearest(
    image: Float[np.ndarray, "rows d"],
    text: Float[np.ndarray, "rows d"],
    centroids: Float[np.ndarray, "k joint"],
) -> tuple[Int[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """The nearest centroid of every row and the squared distance to it; -1 and NaN on rows without
    an image or without a question.
    """
    apart = 1 + (centroids**2).sum(axis=1) - 2 * joint(image, text) @ centroids.T  # of unit vectors
    labels = np.where(np.isnan(apart[:, 0]), -1, apart.argmin(axis=1))
    return labels, apart.min(axis=1)


def pairs(
    embedded: Embedded, rows: Int[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, "rows d"], Float[np.ndarray, "rows d"]]:
    """The classifier's inputs: the vectors of a row's image and of the mean of its questions."""
    return embedded.images(rows), embedded.texts(rows, SPEAKER)
