"""TypiClust: the most typical row of every cluster, then the second of every cluster, and so on."""

import dataclasses

import numpy as np
from jaxtyping import Float

from xmas.data.pool import Pool
from xmas.features.clip.embedded import unit
from xmas.selection.methods.semdedup import members
from xmas.selection.protocol import Ranked
from xmas.selection.rules.best_first import best_first
from xmas.selection.rules.turns import in_turns
from xmas.store import Stage, Store


def nearest_cosines(
    points: Float[np.ndarray, "points d"], neighbours: int, block: int = 1024
) -> Float[np.ndarray, "points near"]:
    """The cosines of every point with its `neighbours` nearest others, with all if fewer, in no
    order.

    Args:
        points: unit vectors.
        block: points compared at a time.
    """
    count = max(0, min(neighbours, len(points) - 1))
    cosines = np.zeros((len(points), count))
    for start in range(0, len(points) if count else 0, block):
        rows = np.arange(start, min(start + block, len(points)))
        alike = points[rows] @ points.T
        alike[rows - start, rows] = -np.inf
        cosines[rows] = np.partition(alike, -count, axis=1)[:, -count:]
    return cosines


def typicality(
    points: Float[np.ndarray, "points d"], neighbours: int, block: int = 1024
) -> Float[np.ndarray, " points"]:
    """One over the mean distance to the `neighbours` nearest other points, or to all if fewer.

    Args:
        points: unit vectors. Distances are at least 1e-4, so that copies have finite values; a
            single point has 0.
        block: points compared at a time.
    """
    nearest = nearest_cosines(points, neighbours, block)
    if not nearest.shape[1]:
        return np.zeros(len(points))
    return 1 / np.sqrt(np.maximum(2 - 2 * nearest, 1e-8)).mean(axis=1)


@dataclasses.dataclass(frozen=True)
class Typiclust:
    """Rows of clusters in turns, the most typical first; a row's score is its typicality.

    Neighbours are all rows of the row's cluster, chosen or not, as in the paper. Rows without the
    feature are one cluster in random order, which matters under `subset.text_only=ranked` only.

    Source: TypiClust (arXiv 2202.02794), section 3; 20 neighbours there. Deviations: the paper
    clusters anew for every budget, into as many clusters as rows are to be chosen (the release: at
    most 500), and labels in rounds; here the clusters stay, so that subsets are nested. The release
    searches the rows not yet chosen, by squared distances, and drops clusters of five rows or
    fewer; here small clusters give the rows they have.
    """

    features: Stage  # with `values.npy` (rows, d), NaN on rows without it
    clusters: Stage  # with `labels.npy` (rows,)
    neighbours: int = 20

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        """Raises ValueError: `neighbours` is less than 1."""
        if self.neighbours < 1:
            raise ValueError(f"neighbours={self.neighbours}: typicality needs at least 1")
        values = np.load(store.get(self.features) / "values.npy", mmap_mode="r")
        labels = np.load(store.get(self.clusters) / "labels.npy")
        scores = np.full(len(labels), np.nan)
        for rows in members(labels):
            points = unit(values[rows].astype(np.float32))
            has = np.isfinite(points).all(axis=1)
            scores[rows[has]] = typicality(points[has], self.neighbours)
        return Ranked(in_turns(labels, best_first(scores, rng)), scores, labels)
