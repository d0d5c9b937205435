"""D2-Pruning: important rows first, each telling its neighbours that they are needed less."""

import dataclasses
import heapq

import numpy as np
from jaxtyping import Float, Int

from xmas.data.pool import Pool
from xmas.features.clip.embedded import unit
from xmas.features.clustering.neighbours import neighbours
from xmas.selection.protocol import Ranked, Selector
from xmas.selection.rules.best_first import best_first
from xmas.store import Stage, Store

LEAST = 1e-7  # importance that counts, as in the release


def gather(
    importance: Float[np.ndarray, " points"],
    near: Int[np.ndarray, "points k"],
    apart: Float[np.ndarray, "points k"],
    *,
    gamma: float,
) -> Float[np.ndarray, " points"]:
    """Importance plus that of the neighbours, less the farther they are: exp(−gamma · distance)."""
    held = np.maximum(importance, LEAST)
    return held + (np.exp(-gamma * apart) * held[near]).sum(axis=1)


def take_in_turn(
    scores: Float[np.ndarray, " points"],
    near: Int[np.ndarray, "points k"],
    apart: Float[np.ndarray, "points k"],
    *,
    gamma: float,
) -> Float[np.ndarray, " points"]:
    """The score that each point has when it is the best left; ties go to the lower one.

    Whoever is taken lowers its neighbours by exp(−gamma · distance) times its own score, so scores
    fall along the order. One below zero lowers nobody: it would raise them.
    """
    messages = np.exp(-gamma * apart).tolist()
    lists, current = near.tolist(), scores.tolist()
    waiting = [(-score, point) for point, score in enumerate(current)]
    heapq.heapify(waiting)
    left = [True] * len(current)
    while waiting:
        said, point = heapq.heappop(waiting)
        if current[point] < -said:  # lowered since: it waits again
            heapq.heappush(waiting, (-current[point], point))
            continue
        left[point] = False
        own = max(current[point], 0.0)
        for other, share in zip(lists[point], messages[point], strict=True):
            if left[other]:
                current[other] -= share * own
    return np.array(current)


@dataclasses.dataclass(frozen=True)
class D2:
    """Difficulty and diversity by messages over a graph of nearest neighbours.

    What is important is any ranking's score: CLIP-Score's unless another is named. COINCIDE's
    baseline (`variant=d2_released`) takes the AUM of a proxy's answers as it is, so that what the
    proxy is sure of comes first, and the mean of its last layer as the feature.

    Distances are squared Euclidean ones of unit vectors, exact where that baseline takes vectors of
    any length, reads distances off a product quantiser and subtracts the first neighbour's. Rows
    without feature or score follow at random. Nested: budgets are cut from one greedy order.
    Source: D2-Pruning (arXiv 2310.07931), sections 3.2 and 3.3; gammas and neighbours of COINCIDE's
    baseline.
    """

    features: Stage  # with `values.npy` (rows, d), NaN on rows without it
    importance: Selector  # whose scores are the importance, high is important
    neighbours: int = 5
    gather_gamma: float = 1.0
    take_gamma: float = 0.4
    lists: int = 2048  # of the search for neighbours; fewer than 50 rows a list: exact
    probes: int = 8  # lists that are searched for a row

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        values = np.load(store.get(self.features) / "values.npy", mmap_mode="r")
        importance = self.importance.rank(pool, rng, store).scores
        points = unit(values[:].astype(np.float32))
        has = np.flatnonzero(np.isfinite(points).all(axis=1) & ~np.isnan(importance))
        near, apart = neighbours(points[has], self.neighbours, lists=self.lists, probes=self.probes)
        apart = apart.astype(np.float64)
        scores = np.full(len(importance), np.nan)
        gathered = gather(importance[has], near, apart, gamma=self.gather_gamma)
        scores[has] = take_in_turn(gathered, near, apart, gamma=self.take_gamma)
        return Ranked(best_first(scores, rng), scores, np.full(len(scores), -1))
