"""The sides of a split: which rows stay in the pool, which are held out, which are in neither."""

import numpy as np
from jaxtyping import Int

POOL, HELD_OUT, LEFT_OUT = range(3)


def drawn(
    groups: Int[np.ndarray, " rows"], budget: int, rng: np.random.Generator
) -> Int[np.ndarray, " rows"]:
    """The side of every row: whole groups in a random order are held out while they fit.

    A group that is larger than what is left of the budget stays in the pool.

    >>> drawn(np.array([0, 0, 0, 3]), 2, np.random.default_rng(0)).tolist()
    [0, 0, 0, 1]
    """
    names, of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    sides = np.full(len(names), POOL)
    for group in rng.permutation(len(names)).tolist():
        if int(sizes[group]) <= budget:
            sides[group] = HELD_OUT
            budget -= int(sizes[group])
    return sides[of_row.reshape(-1)]


def listed(
    groups: Int[np.ndarray, " rows"], rows: Int[np.ndarray, " listed"]
) -> Int[np.ndarray, " rows"]:
    """The side of every row: those listed are held out, others of their groups left out.

    >>> listed(np.array([0, 0, 2, 3]), np.array([1, 3])).tolist()
    [2, 1, 0, 1]
    """
    sides = np.where(np.isin(groups, groups[rows]), LEFT_OUT, POOL)
    sides[rows] = HELD_OUT
    return sides
