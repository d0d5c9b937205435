"""D2-Pruning: important rows first; each chosen row lowers the scores of its neighbours."""

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

LEAST = 1e-7  # smaller importances are raised to this, as in the release


def gather(
    importance: Float[np.ndarray, " points"],
    near: Int[np.ndarray, "points k"],
    apart: Float[np.ndarray, "points k"],
    *,
    gamma: float,
) -> Float[np.ndarray, " points"]:
    """Importance plus that of the neighbours times exp(−gamma · distance).

    Args:
        near: the neighbours of every point.
        apart: the distances to them.
    """
    own = np.maximum(importance, LEAST)
    return own + (np.exp(-gamma * apart) * own[near]).sum(axis=1)


def take_in_turn(
    scores: Float[np.ndarray, " points"],
    near: Int[np.ndarray, "points k"],
    apart: Float[np.ndarray, "points k"],
    *,
    gamma: float,
) -> Float[np.ndarray, " points"]:
    """The score that each point has when it is the best of the rest; ties go to the lower one.

    A chosen point lowers its neighbours by exp(−gamma · distance) times its own score, so scores
    fall along the order. A score below zero changes no neighbour: it would raise them.
    """
    messages = np.exp(-gamma * apart).tolist()
    lists, current = near.tolist(), scores.tolist()
    waiting = [(-score, point) for point, score in enumerate(current)]
    heapq.heapify(waiting)
    remaining = [True] * len(current)
    while waiting:
        priority, point = heapq.heappop(waiting)
        if current[point] < -priority:  # lowered since: it waits again
            heapq.heappush(waiting, (-current[point], point))
            continue
        remaining[point] = False
        own = max(current[point], 0.0)
        for neighbour, share in zip(lists[point], messages[point], strict=True):
            if remaining[neighbour]:
                current[neighbour] -= share * own
    return np.array(current)


@dataclasses.dataclass(frozen=True)
class D2:
    """Difficulty and diversity by messages over a graph of nearest neighbours.

    The importance is the score of any ranking, by default CLIP-Score's. Budgets are cut from one
    greedy order, so subsets are nested. Rows without feature or score follow in random order.

    Source: D2-Pruning (arXiv 2310.07931), sections 3.2 and 3.3; gammas and neighbours of COINCIDE's
    baseline, which (`variant=d2_released`) uses the AUM of a proxy's answers as importance, so that
    the answers it is sure of come first, and the mean of its last layer as the feature. Deviation:
    distances are exact squared Euclidean ones of unit vectors; that baseline has vectors of any
    length, distances of a product quantiser, and subtracts the first neighbour's.
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
