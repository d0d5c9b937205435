"""k-means over a feature of every row; the only place that knows FAISS."""

import dataclasses
import json
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from xmas.store import Stage, Store

REDUCTIONS = ("sum", "first", "vector")
SCALINGS = ("none", "zscore", "log")
MISSING = ("apart", "zero")


def reduce_spectra(
    values: Float[np.ndarray, "rows steps k"], reduction: str
) -> Float[np.ndarray, "rows features"]:
    """Spectra as one vector a row: their `sum` over k (the release), the `first` value, or all.

    Raises ValueError: no such reduction.
    """
    if reduction == "sum":
        return values.sum(axis=2)
    if reduction == "first":
        return values[:, :, 0]
    if reduction == "vector":
        return values.reshape(len(values), -1)
    raise ValueError(f"reduction {reduction!r}: expected one of {', '.join(REDUCTIONS)}")


def kept_snapshots(
    values: Float[np.ndarray, "rows steps k"], snapshots: str, *, shuffled: int | None = None
) -> Float[np.ndarray, "rows kept k"]:
    """Some of the snapshots, named by a slice as Python writes it.

    `:` all, `1:` all but the first, `:1` the first, `-1:` the last, `::2` every second. With a seed
    as `shuffled`, every row has them in an order of its own: the same values without their time.
    Raises ValueError: it is no slice, or keeps nothing.
    """
    if not re.fullmatch(r"(-?\d+)?(:(-?\d+)?){1,2}", snapshots):
        raise ValueError(f"snapshots {snapshots!r}: expected a slice, e.g. ':', '1:', ':1', '::2'")
    parts = [int(part) if part else None for part in snapshots.split(":")]
    kept = values[:, slice(*parts)]
    if kept.shape[1] == 0:
        raise ValueError(f"snapshots {snapshots!r} keeps none of the {values.shape[1]} there are")
    if shuffled is None:
        return kept
    turns = np.tile(np.arange(kept.shape[1]), (len(kept), 1))
    np.random.default_rng(shuffled).permuted(turns, axis=1, out=turns)
    return np.take_along_axis(kept, turns[:, :, None], axis=1)


def scaled(
    points: Float[np.ndarray, "points features"], scaling: str
) -> Float[np.ndarray, "points features"]:
    """Features as they are (`none`, the release), each with mean 0 and deviation 1 (`zscore`; one
    that never varies becomes 0), or as `log` of 1 + x.

    Raises ValueError: no such scaling, or a logarithm of a value under 0.
    """
    if scaling == "none":
        return points
    if scaling == "zscore":
        spread = points.std(axis=0, dtype=np.float64)
        centred = points - points.mean(axis=0, dtype=np.float64)
        return (centred / np.where(spread > 0, spread, 1)).astype(points.dtype)
    if scaling == "log":
        if len(points) and points.min() < 0:
            raise ValueError(f"scaling log: the features go down to {points.min()}, expected >= 0")
        return np.log1p(points)
    raise ValueError(f"scaling {scaling!r}: expected one of {', '.join(SCALINGS)}")


def kmeans(
    points: Float[np.ndarray, "points features"],
    k: int,
    *,
    seed: int,
    iterations: int,
    per_centroid: int | None,
) -> Int[np.ndarray, " points"]:
    """The cluster of every point, by FAISS's k-means on the GPU where there is one.

    `per_centroid` points a centroid at most are sampled for training, all where None; FAISS's own
    default is 256, which changes the clusters of larger sets. Raises ValueError: a value is not
    finite, or there are fewer points than clusters.
    """
    import faiss

    if not np.isfinite(points).all():
        bad = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise ValueError(f"k-means: point {bad} is not finite: {points[bad]}")
    if len(points) < k:
        raise ValueError(f"k-means: {k} clusters of {len(points)} points; set clusters.k lower")
    data = np.ascontiguousarray(points, dtype=np.float32)
    model = faiss.Kmeans(
        data.shape[1],
        k,
        niter=iterations,
        seed=seed,
        gpu=getattr(faiss, "get_num_gpus", lambda: 0)() > 0,
        min_points_per_centroid=1,  # refused above what cannot be; FAISS would only print
        max_points_per_centroid=len(data) if per_centroid is None else per_centroid,
    )
    model.train(data)
    return model.index.search(data, 1)[1][:, 0].astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Clusters(Stage):
    """`labels.npy` (rows,) int64 in [0, k]: the cluster, k for rows without the feature;
    `sizes.json`, rows of every cluster.

    Rows without it stand `apart`, or, as in the release, are clustered with `zero` for NaN.
    Source: XMAS release, `kmeans_clustering.py` (1000 clusters, 100 iterations, seed 1234, 256
    points a centroid); here all rows train by default.
    """

    kind: ClassVar[str] = "clusters"

    features: Stage  # with `values.npy`: (rows, features) or (rows, steps, k)
    k: int = 1000
    reduction: str = "sum"  # of spectra: sum, first, vector
    snapshots: str = ":"  # of spectra: a slice, see `kept_snapshots`
    shuffled: int | None = None  # a seed: each row's snapshots in an order of its own, a control
    scaling: str = "none"  # zscore, log
    missing: str = "apart"  # zero
    iterations: int = 100
    per_centroid: int | None = None  # rows that train, times k; null: all
    seed: int = 1234  # FAISS's own default

    def points(self, store: Store) -> Float[np.ndarray, "rows features"]:
        """What is clustered, before it is scaled; NaN on rows without the feature."""
        values = np.load(store.get(self.features) / "values.npy", mmap_mode="r")
        if values.ndim != 3:
            return np.asarray(values)
        kept = kept_snapshots(values, self.snapshots, shuffled=self.shuffled)
        return reduce_spectra(kept, self.reduction)

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: a row has a value that is not finite beside others that are."""
        points = self.points(store)
        if self.missing not in MISSING:
            raise ValueError(f"missing {self.missing!r}: expected one of {', '.join(MISSING)}")
        has_feature = ~np.isnan(points).all(axis=1)
        broken = np.flatnonzero(has_feature & ~np.isfinite(points).all(axis=1))
        if len(broken):
            row = int(broken[0])
            raise ValueError(f"{self.features.kind}: row {row} is not finite: {points[row]}")
        if self.missing == "zero":
            points, has_feature = np.nan_to_num(points), np.ones_like(has_feature)
        labels = np.full(len(points), self.k, dtype=np.int64)
        labels[has_feature] = kmeans(
            scaled(points[has_feature], self.scaling),
            self.k,
            seed=self.seed,
            iterations=self.iterations,
            per_centroid=self.per_centroid,
        )
        np.save(out / "labels.npy", labels)
        sizes = np.bincount(labels, minlength=self.k + 1)
        (out / "sizes.json").write_text(json.dumps(sizes.tolist()))

    def of_pool(
        self, store: Store, has_image: Bool[np.ndarray, " rows"]
    ) -> Int[np.ndarray, " rows"]:
        """The labels, with k for text-only rows alone: they are one more cluster, whatever feature
        they have. A row that has an image but not the feature is in no cluster, -1.
        """
        labels = np.load(store.get(self) / "labels.npy")
        labels[has_image & (labels == self.k)] = -1
        labels[~has_image] = self.k
        return labels
