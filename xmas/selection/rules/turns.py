"""Rows of clusters in turns, and the equal quotas that this order gives at every budget."""

import numpy as np
from jaxtyping import Int


def even_quotas(sizes: Int[np.ndarray, " k"], budget: int) -> Int[np.ndarray, " k"]:
    """Split `budget` over clusters as evenly as their sizes allow.

    Clusters are visited from the smallest up. Each gives an equal share of what is still wanted, or
    all it has; what it cannot give is shared by the larger ones.

    Raises ValueError: the clusters hold fewer than `budget` rows.
    Source: XMAS (arXiv 2510.01454); released `cluster_data_selection.py`.
    """
    if budget > sizes.sum():
        raise ValueError(f"budget {budget} exceeds the {sizes.sum()} rows of {len(sizes)} clusters")
    quotas = np.zeros_like(sizes)
    left = budget
    for visited, cluster in enumerate(np.argsort(sizes, kind="stable")):
        quotas[cluster] = min(left // (len(sizes) - visited), sizes[cluster])
        left -= quotas[cluster]
    return quotas


def in_turns(
    labels: Int[np.ndarray, " rows"], preferred: Int[np.ndarray, " rows"]
) -> Int[np.ndarray, " rows"]:
    """Row positions so that every prefix gives each cluster its even quota.

    First the most preferred row of every cluster, then the second of every cluster, and so on; in a
    turn the largest cluster comes first, of equal ones the higher label, as what does not divide is
    left to the last that `even_quotas` visits. `preferred` is an order of all positions.
    """
    _, compact, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    visited = np.empty(len(sizes), dtype=np.int64)  # place of a cluster in a turn
    visited[np.argsort(sizes, kind="stable")[::-1]] = np.arange(len(sizes))
    grouped = preferred[np.argsort(compact[preferred], kind="stable")]
    firsts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    turn = np.empty(len(labels), dtype=np.int64)
    turn[grouped] = np.arange(len(labels)) - firsts
    return np.lexsort((visited[compact], turn))


def turns_of_clusters(
    labels: Int[np.ndarray, " rows"], preferred: Int[np.ndarray, " rows"], *, smallest: int = 1
) -> Int[np.ndarray, " rows"]:
    """`in_turns` over the clusters of at least `smallest` rows, then those of the others, then the
    rows in no cluster, labelled -1, each in the preferred order.
    """
    of_row = np.append(np.bincount(labels[labels >= 0]), 0)[labels]  # rows of a row's cluster
    waits = (labels < 0) | (of_row < smallest)
    visited = np.flatnonzero(~waits)
    place = np.cumsum(~waits) - 1
    first = visited[in_turns(labels[visited], place[preferred[~waits[preferred]]])]
    left = preferred[waits[preferred]]
    return np.concatenate([first, left[np.argsort(labels[left] < 0, kind="stable")]])
