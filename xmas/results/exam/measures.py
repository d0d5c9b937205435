"""What is measured of subsets: overlap, copies, planted rows, coverage, redundancy, correlation.

Pure functions of arrays, with what chance gives next to each.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

_QUERIES = 1000  # rows whose nearest one is looked for
_BLOCK = 200


def in_common(
    first: Int[np.ndarray, " first"],
    second: Int[np.ndarray, " second"],
    strata: Int[np.ndarray, " pool"],
    among: Bool[np.ndarray, " pool"] | None = None,
) -> tuple[float, float]:
    """The share of their rows that two subsets have in common, and the share of random subsets with
    as many rows of each stratum: 2 |A and B| / (|A| + |B|).

    Args:
        strata: a number of every row of the pool: rows with and without an image, which a budget
            fixes.
        among: rows that could be in both; others are left out of the subsets.

    >>> strata = np.zeros(10, dtype=int)
    >>> in_common(np.array([1, 2, 3, 4]), np.array([3, 4, 5, 6]), strata)
    (0.5, 0.4)
    """
    inside = np.ones(len(strata), dtype=bool) if among is None else among
    sides = np.zeros((2, len(strata)), dtype=bool)
    sides[0, first], sides[1, second] = True, True
    sides &= inside
    total = int(sides.sum())
    if not total:
        return float("nan"), float("nan")
    expected = 0.0
    for stratum in np.unique(strata[inside]):
        rows = inside & (strata == stratum)
        expected += float(sides[0, rows].sum()) * float(sides[1, rows].sum()) / float(rows.sum())
    return 2 * float(sides.all(axis=0).sum()) / total, 2 * expected / total


def beyond_chance(share: float, chance: float) -> float:
    """0 where a share is that of chance, 1 where it is 1: Cohen's kappa."""
    return (share - chance) / (1 - chance) if chance < 1 else float("nan")


def copies_kept(groups: Int[np.ndarray, " pool"], chosen: Bool[np.ndarray, " pool"]) -> float:
    """Of a row that is kept and has copies, the share of its copies that are kept as well.

    A rule that sees no copies keeps them as it keeps any row; one that drops them keeps none; one
    that gives equal rows equal scores keeps all.

    Args:
        groups: equal for a row and its copies; -1 without copies.

    >>> copies_kept(np.array([0, 0, 2, 2, -1]), np.array([True, True, True, False, True]))
    0.6666666666666666
    """
    members = groups >= 0
    if not members.any():
        return float("nan")
    names, of_row = np.unique(groups[members], return_inverse=True)
    sizes = np.bincount(of_row, minlength=len(names))
    counts = np.bincount(of_row, weights=chosen[members], minlength=len(names))
    several = sizes > 1
    if not counts[several].sum():
        return float("nan")
    pairs = counts[several] * (counts[several] - 1) / (sizes[several] - 1)
    return float(pairs.sum() / counts[several].sum())


def correlation(first: Float[np.ndarray, " rows"], second: Float[np.ndarray, " rows"]) -> float:
    """Spearman's rank correlation; equal values share a rank. NaN where one never varies."""
    ranks = np.stack([_mean_ranks(values) for values in (first, second)])
    if (np.ptp(ranks, axis=1) == 0).any():
        return float("nan")
    return float(np.corrcoef(ranks)[0, 1])


def _mean_ranks(values: np.ndarray) -> Float[np.ndarray, " rows"]:
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    return (ends - (count - 1) / 2)[group.reshape(-1)]


def groups_covered(
    labels: Int[np.ndarray, " pool"], chosen: Bool[np.ndarray, " pool"]
) -> tuple[float, float]:
    """The share of all groups with a row in the subset, and the same of random subsets of its size:
    a group of g rows is missed with about the probability (1 - share) ** g.
    """
    sizes = np.bincount(labels)
    counts = np.bincount(labels, weights=chosen, minlength=len(sizes))[sizes > 0]
    missed = (1 - chosen.mean()) ** sizes[sizes > 0]
    return float((counts > 0).mean()), float(1 - missed.mean())


def mix_moved(labels: Int[np.ndarray, " pool"], chosen: Bool[np.ndarray, " pool"]) -> float:
    """The share of a subset's rows that had to change group for it to have the pool's mix: total
    variation, 0 where the mix is the pool's.
    """
    of_pool = np.bincount(labels) / len(labels)
    of_subset = np.bincount(labels, weights=chosen, minlength=len(of_pool)) / chosen.sum()
    return float(np.abs(of_pool - of_subset).sum() / 2)


def nearest_alike(
    vectors: Float[np.ndarray, "rows d"],
    chosen: Int[np.ndarray, " chosen"],
    rng: np.random.Generator,
) -> float:
    """The mean cosine of a chosen row with the chosen one most like it, of at most 1,000 rows."""
    if len(chosen) < 2:
        return float("nan")
    places = rng.permutation(len(chosen))[:_QUERIES]
    rows = vectors[chosen]
    largest = []
    for start in range(0, len(places), _BLOCK):
        block = places[start : start + _BLOCK]
        alike = rows[block] @ rows.T
        alike[np.arange(len(block)), block] = -np.inf
        largest.append(alike.max(axis=1))
    return float(np.concatenate(largest).mean())
