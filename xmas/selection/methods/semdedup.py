"""SemDeDup: of rows with nearly the same embedding, all but one come last."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from xmas.data.pool import Pool
from xmas.features.clip.embedded import unit
from xmas.selection.protocol import Ranked
from xmas.selection.rules.best_first import best_first
from xmas.store import Stage, Store

KEEP = ("hard", "easy")


def nearest_earlier(
    points: Float[np.ndarray, "points d"], block: int = 1024
) -> Float[np.ndarray, " points"]:
    """The largest inner product of each point with a preceding one; -1 for the first.

    Args:
        block: points compared at a time.
    """
    largest = np.full(len(points), -1.0)
    for start in range(0, len(points), block):
        stop = min(start + block, len(points))
        alike = points[start:stop] @ points[:stop].T
        alike[np.arange(stop) >= np.arange(start, stop)[:, None]] = -1.0
        largest[start:stop] = alike.max(axis=1)
    return largest


@dataclasses.dataclass(frozen=True)
class Semdedup:
    """Rows by their distance, 1 − cosine, to the nearest earlier row of their cluster, far first.

    Inside a cluster the rows farthest from the mean of its rows come first (`hard`), or the nearest
    (`easy`); for spherical clusters the mean has the direction of the centroid. Rows without the
    feature follow in random order.

    Source: SemDeDup (arXiv 2303.09540); as in COINCIDE's baseline, 10,000 spherical clusters, there
    of the proxy's last layer (`variant=semdedup_released`), here of CLIP. Deviation: the release
    keeps rows farther than a threshold, tuned manually until it leaves the desired number, and then
    drops the clusters with the highest numbers. In this order every threshold is a prefix, so
    budgets are exact and nested, and no cluster is dropped for its number.
    """

    features: Stage  # with `values.npy` (rows, d), NaN on rows without it
    clusters: Stage  # with `labels.npy` (rows,)
    keep: str = "hard"  # easy

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        """Raises ValueError: no such order of a cluster."""
        if self.keep not in KEEP:
            raise ValueError(f"keep {self.keep!r}: expected one of {', '.join(KEEP)}")
        values = np.load(store.get(self.features) / "values.npy", mmap_mode="r")
        labels = np.load(store.get(self.clusters) / "labels.npy")
        apart = np.full(len(labels), np.nan)
        for rows in members(labels):
            points = unit(values[rows].astype(np.float32))
            has = np.isfinite(points).all(axis=1)
            rows, points = rows[has], points[has]
            central = points @ points.mean(axis=0) if len(rows) else np.zeros(0)
            order = np.argsort(central if self.keep == "hard" else -central, kind="stable")
            apart[rows[order]] = np.clip(1 - nearest_earlier(points[order]), 0, 2)
        return Ranked(best_first(apart, rng), apart, labels)


def members(labels: Int[np.ndarray, " rows"]) -> list[Int[np.ndarray, " _"]]:
    """The rows of every label that has any, ascending."""
    by_cluster = np.argsort(labels, kind="stable")
    return np.split(by_cluster, np.flatnonzero(np.diff(labels[by_cluster])) + 1)
