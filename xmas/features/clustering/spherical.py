"""Spherical k-means over a feature file of any size, read block by block.

In memory are a block of the file and two arrays of k centroids; on a GPU the whole file too, where
it fits. An iteration costs 2 x rows x k x width operations: for 665,298 rows of 20,480 values and
10,000 clusters 2.7e14, 45 minutes on two CPU cores; the release makes fifty iterations. On a GPU
float16 features are multiplied by tensor cores: 1.1 s an iteration of an H100, estimated.
"""

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xmas.features.clustering.assigner import Assigner
from xmas.features.clustering.cluster_count import ClusterCount, clusters_of
from xmas.features.clustering.enough_rows import check_enough, setting_of
from xmas.models.device import device_for
from xmas.store import Stage, Store, volatile
from xmas.store.checkpoint import save_checkpoint, saved_state
from xmas.store.progress import bar
from xmas.training.fit.recipe import Hardware


def unit(vectors: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
    """Scale vectors to length one, in place; zeros stay zeros."""
    lengths = vectors.norm(dim=1, keepdim=True)
    return vectors.div_(torch.where(lengths > 0, lengths, 1.0))


def spherical_kmeans(
    assign: Assigner,
    rows: Int[np.ndarray, " training"],
    k: int,
    *,
    seed: int,
    iterations: int,
    draft: Path | None = None,
    setting: str = "k",
) -> Float[np.ndarray, "k width"]:
    """Unit centroids after at most `iterations` of Lloyd's algorithm.

    The first centroids are k of the rows; it ends early if no row changes its cluster. An empty
    cluster is moved to the row with the smallest product with its centroid, of equals the lowest,
    of a cluster that has other rows.

    Args:
        rows: that train, ascending.
        seed: of the first centroids.
        draft: a folder for checkpoints, from which an interrupted run resumes; None: without.

    Raises:
        ValueError: fewer rows than clusters, or a row that is not finite.

    Source: COINCIDE, released `compute_centroids.py` (faiss.Kmeans, spherical, 50 iterations, seed
    1234). Equal from the same first centroids, except that FAISS draws them with another generator
    and splits a large cluster at random if one is empty.
    """
    if len(rows) < k:
        raise ValueError(
            f"spherical k-means: {k} clusters of {len(rows)} rows; set {setting} lower"
        )
    first_iteration, centroids = _last_checkpoint(draft)
    if centroids is None:
        first = np.sort(np.random.default_rng(seed).choice(rows, k, replace=False))
        centroids = unit(assign.read(first))
    centroids = centroids.to(assign.device)
    sums = torch.empty_like(centroids)
    before = np.full(len(rows), -1)
    with bar(
        total=iterations * len(rows), label="clusters", initial=first_iteration * len(rows)
    ) as progress:
        for iteration in range(first_iteration, iterations):
            progress.set_postfix_str(f"iteration {iteration + 1} of {iterations}")
            labels, nearness = assign(rows, centroids, sums=sums.zero_(), progress=progress)
            if np.array_equal(labels, before):
                break
            before = labels
            centroids, sums = unit(sums), centroids
            empty, again = refilled(labels, nearness, k)
            if len(empty):
                centroids[torch.from_numpy(empty)] = unit(assign.read(rows[again]))
            if draft is not None:
                _save(draft, iteration + 1, centroids)
    return centroids.cpu().numpy()


def refilled(
    labels: Int[np.ndarray, " rows"], nearness: Float[np.ndarray, " rows"], k: int
) -> tuple[Int[np.ndarray, " empty"], Int[np.ndarray, " empty"]]:
    """The empty clusters, and the position of the row that becomes the centroid of each."""
    sizes = np.bincount(labels, minlength=k)
    empty = np.flatnonzero(sizes == 0)
    seeds: list[int] = []
    for position in np.argsort(nearness, kind="stable"):
        if len(seeds) == len(empty):
            break
        if sizes[labels[position]] > 1:
            sizes[labels[position]] -= 1
            seeds.append(int(position))
    return empty, np.array(seeds, dtype=np.int64)


def _save(draft: Path, iteration: int, centroids: Tensor) -> None:
    """Make the centroids after an iteration the checkpoint."""

    def write(path: Path) -> None:
        with path.open("wb") as file:  # numpy would append a suffix to a path
            np.savez(file, iteration=iteration, centroids=centroids.cpu().numpy())

    save_checkpoint(draft, write)


def _last_checkpoint(draft: Path | None) -> tuple[int, Tensor | None]:
    """The number of finished iterations, and their centroids."""
    state = None if draft is None else saved_state(draft)
    if state is None:
        return 0, None
    with np.load(state) as saved:
        return int(saved["iteration"]), torch.from_numpy(saved["centroids"])


@dataclasses.dataclass(frozen=True)
class Spherical(Stage):
    """Spherical k-means clusters of a feature.

    Writes `labels.npy` (rows,) int64 in [0, k], k for rows without the feature; `centroids.npy`
    (k, width) float32, of length one; `sizes.json`, the rows of every cluster. A row whose first
    value is NaN has no feature: it is neither trained on nor assigned.

    Source: COINCIDE, released `compute_centroids.py` and `clustering.py`.

    Args:
        features: a stage with `values.npy`, (rows, width).
        k: clusters; a `ClusterCount` depends on the rows that have the feature.
        per_centroid: rows that train, times k; None: all.
        block: rows in memory at a time.
        hardware: whose accelerator multiplies.
    """

    kind: ClassVar[str] = "clusters"
    version: ClassVar[int] = 2

    features: Stage
    k: int | ClusterCount = 10_000
    iterations: int = 50
    per_centroid: int | None = 256
    seed: int = 1234
    block: int = 4096
    hardware: Hardware = volatile(default_factory=Hardware)

    def check(self, store: Store) -> None:
        """Raises ValueError: the pool has fewer rows than clusters."""
        pictured = getattr(self.features, "of_images", False)
        setting = setting_of(self, self.features)
        check_enough(setting, self.k, self.features, store, pictured=pictured)

    def compute(self, store: Store, out: Path) -> None:
        values = np.load(store.get(self.features) / "values.npy", mmap_mode="r")
        assign = Assigner(values, self.block, device_for(self.hardware.accelerator))
        rows = np.flatnonzero(~np.isnan(values[:, 0]))
        k = clusters_of(self.k, len(rows))
        centroids = spherical_kmeans(
            assign,
            rows[training_rows(len(rows), k, self.per_centroid, self.seed)],
            k,
            seed=self.seed,
            iterations=self.iterations,
            draft=out,
            setting=setting_of(self, self.features),
        )
        last = torch.from_numpy(centroids).to(assign.device)
        labels = np.full(len(values), k, dtype=np.int64)
        with bar(total=len(rows), label="clusters of all rows", whole=False) as progress:
            labels[rows], _ = assign(rows, last, progress=progress)
        np.save(out / "centroids.npy", centroids)
        np.save(out / "labels.npy", labels)
        sizes = np.bincount(labels, minlength=k + 1)
        (out / "sizes.json").write_text(json.dumps(sizes.tolist()))


def training_rows(
    count: int, k: int, per_centroid: int | None, seed: int
) -> Int[np.ndarray, " training"]:
    """Positions of the rows that train, ascending: all, or a sample of `per_centroid` times k."""
    if per_centroid is None or per_centroid * k >= count:
        return np.arange(count)
    rng = np.random.default_rng([seed, per_centroid])
    return np.sort(rng.choice(count, per_centroid * k, replace=False))
