"""Proportional shares of groups, and the order of rows that gives them at every budget."""

import numpy as np
from jaxtyping import Int


def in_shares(
    labels: Int[np.ndarray, " rows"],
    preferred: Int[np.ndarray, " rows"],
    turn: Int[np.ndarray, " groups"],
) -> Int[np.ndarray, " rows"]:
    """An order of positions of which every prefix gives each group Webster's share of it.

    The j-th row of a group with n rows is placed at (j - 1/2) / n. Under this rule (Sainte-Laguë) a
    larger budget never gives a group fewer rows, as largest remainders may, so subsets are nested.

    Args:
        labels: the group of every position, from 0 up.
        preferred: all positions, the most preferred first.
        turn: of every group; of rows at equal places that of the lower turn comes first.
    """
    sizes = np.bincount(labels, minlength=len(turn))
    by_group = preferred[np.argsort(labels[preferred], kind="stable")]
    number = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = np.empty(len(labels))
    place[by_group] = (number + 0.5) / np.repeat(sizes, sizes)
    return np.lexsort((turn[labels], place))
