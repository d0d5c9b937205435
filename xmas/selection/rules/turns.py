"""Equal quotas of clusters, and the order of rows that gives them at every budget."""

import numpy as np
from jaxtyping import Int


def even_quotas(sizes: Int[np.ndarray, " k"], budget: int) -> Int[np.ndarray, " k"]:
    """Split `budget` over clusters as evenly as their sizes allow.

    Clusters are visited from the smallest up. Each gives an equal share of the remaining budget, or
    all its rows; the larger clusters share what it cannot give.

    Raises:
        ValueError: the clusters have fewer than `budget` rows.

    Source: XMAS (arXiv 2510.01454); released `cluster_data_selection.py`.
    """
    if budget > sizes.sum():
        raise ValueError(f"budget {budget} exceeds the {sizes.sum()} rows of {len(sizes)} clusters")
    quotas = np.zeros_like(sizes)
    remaining = budget
    for visited, cluster in enumerate(np.argsort(sizes, kind="stable")):
        quotas[cluster] = min(remaining // (len(sizes) - visited), sizes[cluster])
        remaining -= quotas[cluster]
    return quotas


def in_turns(
    labels: Int[np.ndarray, " rows"], preferred: Int[np.ndarray, " rows"]
) -> Int[np.ndarray, " rows"]:
    """An order of positions of which every prefix gives each cluster its `even_quotas`.

    First the most preferred row of every cluster, then the second of every cluster, and so on. In a
    turn the largest cluster comes first, of equal ones the higher label, since the remainder of a
    division goes to the clusters that `even_quotas` visits last.

    Args:
        labels: the cluster of every position.
        preferred: all positions, the most preferred first.
    """
    _, compact, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    cluster_rank = np.empty(len(sizes), dtype=np.int64)  # position of a cluster in a turn
    cluster_rank[np.argsort(sizes, kind="stable")[::-1]] = np.arange(len(sizes))
    by_cluster = preferred[np.argsort(compact[preferred], kind="stable")]
    firsts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    turn = np.empty(len(labels), dtype=np.int64)
    turn[by_cluster] = np.arange(len(labels)) - firsts
    return np.lexsort((cluster_rank[compact], turn))


def turns_of_clusters(
    labels: Int[np.ndarray, " rows"], preferred: Int[np.ndarray, " rows"], *, smallest: int = 1
) -> Int[np.ndarray, " rows"]:
    """`in_turns` over the clusters of at least `smallest` rows, then the rows of smaller clusters,
    then the rows without a cluster, labelled -1, both in the preferred order.
    """
    of_row = np.append(np.bincount(labels[labels >= 0]), 0)[labels]  # rows of a row's cluster
    waits = (labels < 0) | (of_row < smallest)
    eligible = np.flatnonzero(~waits)
    position = np.cumsum(~waits) - 1  # of an eligible row among them
    eligible_preferred = preferred[~waits[preferred]]
    first = eligible[in_turns(labels[eligible], position[eligible_preferred])]
    last = preferred[waits[preferred]]
    return np.concatenate([first, last[np.argsort(labels[last] < 0, kind="stable")]])
