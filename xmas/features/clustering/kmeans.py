"""k-means over a feature of every row, by FAISS, which only this room imports."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from xmas.features.clustering.cluster_count import ClusterCount, clusters_of
from xmas.features.clustering.enough_rows import check_enough, setting_of
from xmas.store import Stage, Store

REDUCTIONS = ("sum", "first", "vector")
SCALINGS = ("none", "zscore", "log")
MISSING = ("apart", "zero")


def reduce_spectra(
    values: Float[np.ndarray, "rows steps k"], reduction: str
) -> Float[np.ndarray, "rows features"]:
    """Spectra as one vector per row.

    Args:
        reduction: `sum` over k (the release; added in float64, rounded to the type of `values`
            once), the `first` singular value, or the whole `vector`.

    Raises:
        ValueError: there is no such reduction.
    """
    if reduction == "sum":
        return values.sum(axis=2, dtype=np.float64).astype(values.dtype)
    if reduction == "first":
        return values[:, :, 0]
    if reduction == "vector":
        return values.reshape(len(values), -1)
    raise ValueError(f"reduction {reduction!r}: expected one of {', '.join(REDUCTIONS)}")


def kept_snapshots(
    values: Float[np.ndarray, "rows steps k"], snapshots: str, *, shuffled: int | None = None
) -> Float[np.ndarray, "rows kept k"]:
    """Some of the snapshots.

    Args:
        snapshots: a slice in Python's notation: `:` all, `1:` all but the first, `:1` the first,
            `-1:` the last, `::2` every second.
        shuffled: a seed; every row's snapshots are then permuted independently, which keeps the
            values and removes their order in time.

    Raises:
        ValueError: `snapshots` is no slice, or selects none.
    """
    if not re.fullmatch(r"(-?\d+)?(:(-?\d+)?){1,2}", snapshots):
        raise ValueError(f"snapshots {snapshots!r}: expected a slice, e.g. ':', '1:', ':1', '::2'")
    parts = [int(part) if part else None for part in snapshots.split(":")]
    selected = values[:, slice(*parts)]
    if selected.shape[1] == 0:
        raise ValueError(f"snapshots {snapshots!r} selects none of the {values.shape[1]} snapshots")
    if shuffled is None:
        return selected
    places = np.tile(np.arange(selected.shape[1]), (len(selected), 1))
    np.random.default_rng(shuffled).permuted(places, axis=1, out=places)
    return np.take_along_axis(selected, places[:, :, None], axis=1)


def scaled(
    points: Float[np.ndarray, "points features"], scaling: str
) -> Float[np.ndarray, "points features"]:
    """Features scaled before clustering.

    Args:
        scaling: `none` (the release); `zscore`, each feature with mean 0 and standard deviation 1,
            a constant one 0; `log`, log(1 + x).

    Raises:
        ValueError: there is no such scaling, or a logarithm of a value under 0.
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
    setting: str = "clusters.k",
) -> Int[np.ndarray, " points"]:
    """The cluster of every point, by FAISS's k-means, on a GPU if there is one.

    Args:
        seed: of FAISS's initial centroids and sample.
        iterations: of Lloyd's algorithm.
        per_centroid: at most this many points per centroid are sampled for training; None: all.
            FAISS's default of 256 changes the clusters of larger sets.
        setting: of `k`, for messages.

    Raises:
        ValueError: a value is not finite, or there are fewer points than clusters.
    """
    import faiss

    if not np.isfinite(points).all():
        bad = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise ValueError(f"k-means: point {bad} is not finite: {points[bad]}")
    if len(points) < k:
        raise ValueError(f"k-means: {k} clusters of {len(points)} points; set {setting} lower")
    vectors = np.ascontiguousarray(points, dtype=np.float32)
    model = faiss.Kmeans(
        vectors.shape[1],
        k,
        niter=iterations,
        seed=seed,
        gpu=getattr(faiss, "get_num_gpus", lambda: 0)() > 0,
        min_points_per_centroid=1,  # too few points are refused above; FAISS would only warn
        max_points_per_centroid=len(vectors) if per_centroid is None else per_centroid,
    )
    model.train(vectors)
    return model.index.search(vectors, 1)[1][:, 0].astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Clusters(Stage):
    """k-means clusters of a feature.

    Writes `labels.npy` (rows,) int64 in [0, k], k for rows without the feature; `sizes.json`, the
    rows of every cluster.

    Source: XMAS, released `kmeans_clustering.py` (1000 clusters, 100 iterations, seed 1234, 256
    points per centroid). Deviation: here all rows train by default.

    Args:
        features: a stage with `values.npy`, (rows, features) or (rows, steps, k).
        k: clusters; a `ClusterCount` depends on the rows that have the feature.
        reduction: of spectra, (rows, steps, k): see `reduce_spectra`.
        snapshots: of spectra: see `kept_snapshots`.
        shuffled: a seed, a control: see `kept_snapshots`.
        scaling: see `scaled`.
        missing: rows without the feature are left `apart`, or, as in the release, clustered with
            `zero` for NaN.
        per_centroid: rows that train, times k; None: all.
        seed: FAISS's own default.
    """

    kind: ClassVar[str] = "clusters"

    features: Stage
    k: int | ClusterCount = 1000
    reduction: str = "sum"
    snapshots: str = ":"
    shuffled: int | None = None
    scaling: str = "none"
    missing: str = "apart"
    iterations: int = 100
    per_centroid: int | None = None
    seed: int = 1234

    def corrections(self) -> dict[str, Any]:
        """Spectra are summed in float64; before, in float32, which gave a few rows other labels."""
        summed = self.features.kind == "trajectories" and self.reduction == "sum"
        return {"sums": "float64"} if summed else {}

    def check(self, store: Store) -> None:
        """Raises ValueError: the pool has fewer rows than clusters."""
        pictured = getattr(self.features, "of_images", False) and self.missing == "apart"
        setting = setting_of(self, self.features)
        check_enough(setting, self.k, self.features, store, pictured=pictured)

    def points(self, store: Store) -> Float[np.ndarray, "rows features"]:
        """The points that are clustered, before scaling; NaN on rows without the feature."""
        values = np.load(store.get(self.features) / "values.npy", mmap_mode="r")
        if values.ndim != 3:
            return np.asarray(values)
        snapshots = kept_snapshots(values, self.snapshots, shuffled=self.shuffled)
        return reduce_spectra(snapshots, self.reduction)

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: some, not all, of a row's values are not finite; names the row."""
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
        k = clusters_of(self.k, int(has_feature.sum()))
        labels = np.full(len(points), k, dtype=np.int64)
        labels[has_feature] = kmeans(
            scaled(points[has_feature], self.scaling),
            k,
            seed=self.seed,
            iterations=self.iterations,
            per_centroid=self.per_centroid,
            setting=setting_of(self, self.features),
        )
        np.save(out / "labels.npy", labels)
        sizes = np.bincount(labels, minlength=k + 1)
        (out / "sizes.json").write_text(json.dumps(sizes.tolist()))

    def of_pool(
        self, store: Store, has_image: Bool[np.ndarray, " rows"]
    ) -> Int[np.ndarray, " rows"]:
        """The labels, with text-only rows as cluster k even if they have the feature.

        A row with an image but without the feature is in no cluster, -1.
        """
        folder = store.get(self)
        labels = np.load(folder / "labels.npy")
        k = self.k
        if isinstance(k, ClusterCount):
            k = len(json.loads((folder / "sizes.json").read_text())) - 1
        labels[has_image & (labels == k)] = -1
        labels[~has_image] = k
        return labels
