"""D2-Pruning: important rows first; each chosen row lowers the scores of its neighbours."""

import dataclasses
import heapq
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from xmas.data.pool import Pool
from xmas.features.clip.embedded import unit
from xmas.features.clustering.neighbours import neighbours
from xmas.selection.protocol import Ranked, Selector
from xmas.selection.rules.best_first import best_first
from xmas.store import Stage, Store, volatile

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


def take_as_released(
    scores: Float[np.ndarray, " points"],
    near: Int[np.ndarray, "points k"],
    apart: Float[np.ndarray, "points k"],
    *,
    gamma: float,
) -> tuple[Int[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """The release's order of the points, and the score that each has when it is chosen.

    The points are sorted once, by their first scores (of equals the last is first), and visited in
    this order. A visited point is chosen unless the next one to visit has a higher score by now;
    then it goes on a stand-by list. Before each visit, the best point on stand-by (of equals the
    earliest) is chosen if its score is at least that of the point to visit. A chosen point lowers
    its neighbours by exp(−gamma · distance) times its own score, which raises them if it is below
    zero. So a lowered point is compared with two others, not with all: this is not
    `take_in_turn`, and scores do not fall along the order.

    Source: D2-Pruning, COINCIDE's `d2_prune.py` (`iterative_selection`), which fails on the last
    point, where no next one is.
    """
    messages = np.exp(-gamma * apart).tolist()
    lists, current = near.tolist(), scores.tolist()
    visits = np.argsort(scores, kind="stable")[::-1].tolist()
    arrivals: dict[int, int] = {}  # of the points on stand-by
    standby: list[tuple[float, int, int]] = []  # a heap; entries of former scores are passed over
    order: list[int] = []
    chosen_at = np.empty(len(current))

    def choose(point: int) -> None:
        order.append(point)
        own = chosen_at[point] = current[point]
        for neighbour, share in zip(lists[point], messages[point], strict=True):
            current[neighbour] -= share * own
            if neighbour in arrivals:
                heapq.heappush(standby, (-current[neighbour], arrivals[neighbour], neighbour))

    position = 0
    while len(order) < len(current):
        while standby and (
            standby[0][2] not in arrivals or -standby[0][0] != current[standby[0][2]]
        ):
            heapq.heappop(standby)
        if standby and (
            position == len(visits) or current[standby[0][2]] >= current[visits[position]]
        ):
            point = standby[0][2]
            del arrivals[point]
            choose(point)
            continue
        point = visits[position]
        position += 1
        if position < len(visits) and current[point] < current[visits[position]]:
            arrivals[point] = position
            heapq.heappush(standby, (-current[point], position, point))
        else:
            choose(point)
    return np.array(order, dtype=np.int64), chosen_at


@dataclasses.dataclass(frozen=True)
class D2:
    """Difficulty and diversity by messages over a graph of nearest neighbours.

    The importance is the score of any ranking, by default CLIP-Score's. Budgets are cut from one
    order, so subsets are nested. Rows without feature or score follow in random order.

    Source: D2-Pruning (arXiv 2310.07931), sections 3.2 and 3.3: always the best of the rest, its
    scores up to date. Gammas and neighbours are those of COINCIDE's baseline, which
    (`variant=d2_released`) uses the AUM of a proxy's answers as importance, so that the answers it
    is sure of come first, the mean of its last layer as the feature, and the stand-by list of the
    released code for the order. Deviation: distances are exact squared Euclidean ones of unit
    vectors; that baseline has vectors of any length, distances of a product quantiser, and
    subtracts the first neighbour's.
    """

    features: Stage  # with `values.npy` (rows, d), NaN on rows without it
    importance: Selector  # whose scores are the importance, high is important
    neighbours: int = 5
    gather_gamma: float = 1.0
    take_gamma: float = 0.4
    lists: int = 2048  # of the search for neighbours; fewer than 50 rows a list: exact
    probes: int = 8  # lists that are searched for a row
    stand_by: bool = volatile(False)  # the order of `take_as_released`, not of the paper

    def corrections(self) -> dict[str, Any]:
        """`stand_by` came later: rankings without it keep their keys."""
        return {"stand_by": True} if self.stand_by else {}

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        values = np.load(store.get(self.features) / "values.npy", mmap_mode="r")
        importance = self.importance.rank(pool, rng, store).scores
        points = unit(values[:].astype(np.float32))
        has = np.flatnonzero(np.isfinite(points).all(axis=1) & ~np.isnan(importance))
        near, apart = neighbours(points[has], self.neighbours, lists=self.lists, probes=self.probes)
        apart = apart.astype(np.float64)
        scores = np.full(len(importance), np.nan)
        gathered = gather(importance[has], near, apart, gamma=self.gather_gamma)
        without = np.full(len(scores), -1)
        if self.stand_by:
            chosen, scores[has] = take_as_released(gathered, near, apart, gamma=self.take_gamma)
            rest = rng.permutation(np.flatnonzero(np.isnan(scores)))
            return Ranked(np.concatenate([has[chosen], rest]), scores, without)
        scores[has] = take_in_turn(gathered, near, apart, gamma=self.take_gamma)
        return Ranked(best_first(scores, rng), scores, without)
