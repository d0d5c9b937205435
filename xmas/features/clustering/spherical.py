"""Spherical k-means over a feature file of any size, read block by block.

The file is never in memory: besides a block there are two arrays of k centroids. A pass costs
2 x rows x k x width operations: for 665,298 rows of 20,480 values and 10,000 clusters 2.7e14, a few
seconds on a large GPU, three quarters of an hour on two CPU cores; the release makes fifty of them.
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xmas.store import Stage, Store, volatile, write_atomically
from xmas.store.progress import bar


class Assigner:
    """Rows of a feature file to the centroid with the largest scalar product; of equals the first.

    Rows are taken as they are, whatever their length. Raises ValueError: a row is not finite.
    """

    def __init__(
        self, values: Float[np.ndarray, "rows width"], block: int, device: torch.device
    ) -> None:
        self.values = values
        self.block = block
        self.device = device

    def __call__(
        self,
        rows: Int[np.ndarray, " some"],
        centroids: Float[Tensor, "k width"],
        *,
        sums: Float[Tensor, "k width"] | None = None,
        label: str,
    ) -> tuple[Int[np.ndarray, " some"], Float[np.ndarray, " some"]]:
        """The cluster of `rows`, ascending, and how near they are; adds every row to its `sums`."""
        labels = np.empty(len(rows), dtype=np.int64)
        nearness = np.empty(len(rows), dtype=np.float32)
        with bar(total=len(rows), label=label) as progress:
            for span, block in self._blocks(rows):
                best, where = (block @ centroids.T).max(dim=1)
                nearness[span], labels[span] = best.cpu().numpy(), where.cpu().numpy()
                if not np.isfinite(nearness[span]).all():
                    row = rows[span][int(np.argmin(np.isfinite(nearness[span])))]
                    raise ValueError(f"spherical k-means: row {row} of the features is not finite")
                if sums is not None:
                    _add(sums, where, block)
                progress.update(len(block))
        return labels, nearness

    def read(self, rows: Int[np.ndarray, " some"]) -> Float[Tensor, "some width"]:
        """Some rows, in float32 on the device; a run of neighbours in one piece."""
        whole = len(rows) > 0 and (np.diff(rows) == 1).all()
        held = self.values[rows[0] : rows[-1] + 1] if whole else self.values[rows]
        return torch.tensor(held).to(self.device).float()

    def _blocks(
        self, rows: Int[np.ndarray, " some"]
    ) -> Iterator[tuple[slice, Float[Tensor, "block width"]]]:
        for start in range(0, len(rows), self.block):
            span = slice(start, min(start + self.block, len(rows)))
            yield span, self.read(rows[span])


def _add(sums: Tensor, where: Tensor, block: Tensor) -> None:
    """Add rows to the sums of their clusters, in the order of the rows on every device."""
    if sums.is_cuda:
        sums.index_put_((where,), block, accumulate=True)  # sorts first; index_add_ would race
    else:
        sums.index_add_(0, where, block)


def unit(vectors: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
    """Vectors of length one, in place; zeros stay zeros."""
    lengths = vectors.norm(dim=1, keepdim=True)
    return vectors.div_(torch.where(lengths > 0, lengths, 1.0))


def spherical_kmeans(
    assign: Assigner,
    rows: Int[np.ndarray, " training"],
    k: int,
    *,
    seed: int,
    iterations: int,
    kept: Path | None = None,
) -> Float[np.ndarray, "k width"]:
    """Unit centroids after at most `iterations` of Lloyd's algorithm on `rows`, ascending.

    It starts from k of the rows and stops early where no row moves. An empty cluster starts again
    at the row that is least like its centroid, of equals the lowest, in a cluster that keeps other
    rows. In the folder `kept` are the centroids of the last iteration; what an interrupted run left
    there is taken up. Raises ValueError: fewer rows than clusters, or a row that is not finite.

    Source: COINCIDE, released `compute_centroids.py` (faiss.Kmeans, spherical, 50 iterations, seed
    1234). The same from the same start, but that FAISS draws its rows with a generator of its own
    and splits a large cluster at random where one is empty.
    """
    if len(rows) < k:
        raise ValueError(f"spherical k-means: {k} clusters of {len(rows)} rows; set k lower")
    done, centroids = _taken_up(kept)
    if centroids is None:
        first = np.sort(np.random.default_rng(seed).choice(rows, k, replace=False))
        centroids = unit(assign.read(first))
    centroids = centroids.to(assign.device)
    sums = torch.empty_like(centroids)
    before = np.full(len(rows), -1)
    for iteration in range(done, iterations):
        labels, nearness = assign(
            rows, centroids, sums=sums.zero_(), label=f"clusters, {iteration + 1} of {iterations}"
        )
        if np.array_equal(labels, before):
            break
        before = labels
        centroids, sums = unit(sums), centroids
        empty, again = refilled(labels, nearness, k)
        if len(empty):
            centroids[torch.from_numpy(empty)] = unit(assign.read(rows[again]))
        if kept is not None:
            _keep(kept, iteration + 1, centroids)
    return centroids.cpu().numpy()


def refilled(
    labels: Int[np.ndarray, " rows"], nearness: Float[np.ndarray, " rows"], k: int
) -> tuple[Int[np.ndarray, " empty"], Int[np.ndarray, " empty"]]:
    """The empty clusters, and the position of the row at which each starts again."""
    sizes = np.bincount(labels, minlength=k)
    empty = np.flatnonzero(sizes == 0)
    found: list[int] = []
    for position in np.argsort(nearness, kind="stable"):
        if len(found) == len(empty):
            break
        if sizes[labels[position]] > 1:
            sizes[labels[position]] -= 1
            found.append(int(position))
    return empty, np.array(found, dtype=np.int64)


def _keep(folder: Path, iteration: int, centroids: Tensor) -> None:
    folder.mkdir(exist_ok=True)

    def write(path: Path) -> None:
        with path.open("wb") as file:  # numpy would put its own suffix behind a path
            np.save(file, centroids.cpu().numpy())

    write_atomically(folder / f"{iteration}.npy", write)
    (folder / f"{iteration - 1}.npy").unlink(missing_ok=True)


def _taken_up(folder: Path | None) -> tuple[int, Tensor | None]:
    found = [] if folder is None else list(folder.glob("*.npy"))
    numbers = [int(path.stem) for path in found if re.fullmatch(r"\d+", path.stem)]
    if folder is None or not numbers:
        return 0, None
    return max(numbers), torch.from_numpy(np.load(folder / f"{max(numbers)}.npy"))


@dataclasses.dataclass(frozen=True)
class Spherical(Stage):
    """`labels.npy` (rows,) int64 in [0, k]: the cluster, k for rows without the feature;
    `centroids.npy` (k, width) float32, of length one; `sizes.json`, rows of every cluster.

    A row whose first value is NaN has no feature: it is neither trained on nor assigned.

    Source: COINCIDE, released `compute_centroids.py` and `clustering.py`.
    """

    kind: ClassVar[str] = "clusters"
    version: ClassVar[int] = 2

    features: Stage  # with `values.npy`: (rows, width)
    k: int = 10_000
    iterations: int = 50
    per_centroid: int | None = 256  # rows that train, times k; null: all
    seed: int = 1234
    block: int = 4096  # rows in memory
    device: str | None = volatile(None)  # null: a GPU where there is one

    def compute(self, store: Store, out: Path) -> None:
        values = np.load(store.get(self.features) / "values.npy", mmap_mode="r")
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        assign = Assigner(values, self.block, torch.device(device))
        rows = np.flatnonzero(~np.isnan(values[:, 0]))
        centroids = spherical_kmeans(
            assign,
            rows[training_rows(len(rows), self.k, self.per_centroid, self.seed)],
            self.k,
            seed=self.seed,
            iterations=self.iterations,
            kept=out / "iterations",
        )
        last = torch.from_numpy(centroids).to(assign.device)
        labels = np.full(len(values), self.k, dtype=np.int64)
        labels[rows], _ = assign(rows, last, label="clusters of all rows")
        np.save(out / "centroids.npy", centroids)
        np.save(out / "labels.npy", labels)
        sizes = np.bincount(labels, minlength=self.k + 1)
        (out / "sizes.json").write_text(json.dumps(sizes.tolist()))
        shutil.rmtree(out / "iterations", ignore_errors=True)


def training_rows(
    count: int, k: int, per_centroid: int | None, seed: int
) -> Int[np.ndarray, " training"]:
    """All rows, or a sample of `per_centroid` times k of them, ascending."""
    if per_centroid is None or per_centroid * k >= count:
        return np.arange(count)
    rng = np.random.default_rng([seed, per_centroid])
    return np.sort(rng.choice(count, per_centroid * k, replace=False))
