"""COINCIDE's split of a budget over clusters, as one order of rows for all budgets.

Clusters are visited from the highest score down. Each gives its rounded share of the budget that
the clusters before it have left, or all its rows. One row more of budget makes exactly one cluster
give one row more, or none where the rounding falls short. So the subsets of all budgets are the
prefixes of one order: rows sorted by the smallest budget at which they are chosen.
"""

import numpy as np
from jaxtyping import Float, Int


def transferability(
    centroids: Float[np.ndarray, "clusters width"], *, near_duplicate: float = 0.9
) -> Float[np.ndarray, " clusters"]:
    """Mean cosine of every cluster's centroid to those of the others that are not near-duplicates.

    Pairs with a cosine above `near_duplicate` are left out, as is a cluster with itself; NaN where
    no other is left. Source: COINCIDE, released `cluster_transferability.py`.
    """
    lengths = np.linalg.norm(centroids, axis=1, keepdims=True)
    units = centroids / np.where(lengths > 0, lengths, 1.0)
    cosines = units @ units.T
    is_other = cosines <= near_duplicate
    np.fill_diagonal(is_other, False)  # a centroid of zeros has cosine 0 with itself
    count = is_other.sum(axis=1)
    total = np.einsum("ij,ij->i", cosines, is_other, dtype=np.float64)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def shares(
    scores: Float[np.ndarray, " clusters"], temperature: float
) -> tuple[Int[np.ndarray, " clusters"], Float[np.ndarray, " clusters"]]:
    """The order in which clusters are visited, and the share that each has of what is left.

    Clusters come from the highest score down, the lower of equals first. A share is the softmax of
    score / temperature over the cluster and those that follow; the last is one.
    """
    order = np.argsort(-scores, kind="stable")
    logits = scores[order] / temperature
    share = np.ones(len(logits))
    rest = 1.0
    for place in range(len(logits) - 2, -1, -1):
        rest = 1.0 + rest * np.exp(logits[place + 1] - logits[place])
        share[place] = 1.0 / rest
    return order, share


def allocate(
    budget: int, share: Float[np.ndarray, " clusters"], sizes: Int[np.ndarray, " clusters"]
) -> Int[np.ndarray, " clusters"]:
    """Rows that every cluster gives to a budget, in the order of visits: the released rule.

    Halves are rounded to even. The sum is the budget or less: if the last clusters are too small
    for their shares, the rest is not given.

    Source: COINCIDE, released `cluster_wise_prune.py`.
    """
    counts = np.zeros_like(sizes)
    remaining = budget
    for place, (part, size) in enumerate(zip(share.tolist(), sizes.tolist(), strict=True)):
        counts[place] = min(round(remaining * part), size)
        remaining -= int(counts[place])
    return counts


def budgets(
    share: Float[np.ndarray, " clusters"], sizes: Int[np.ndarray, " clusters"]
) -> Float[np.ndarray, " rows"]:
    """The smallest budget to which every cluster gives its first row, its second, and so on.

    The inverse of `allocate`: cluster after cluster in the order of visits; whole numbers, all
    different. The last rows may need budgets beyond the number of rows.
    """
    smallest = np.empty(int(sizes.sum()))
    scratch = np.empty((2, len(smallest)))  # one for thousands of passes: allocation would dominate
    start = len(smallest)
    for part, size in zip(share[::-1].tolist(), sizes[::-1].tolist(), strict=True):
        _arrivals(smallest[start:], part, size, scratch[:, start:])
        smallest[start - size : start] = _own(part, size)
        start -= size
    return smallest


def _own(share: float, size: int) -> Float[np.ndarray, " size"]:
    """The arriving budgets at which a cluster gives its n-th row: smallest r with
    round(r share) >= n, for n from 1 to `size`.
    """
    number = np.arange(1, size + 1)
    arrival = np.ceil((number - 0.5) / share)
    arrival -= np.rint((arrival - 1) * share) >= number  # halves go to even, products are rounded
    arrival += np.rint(arrival * share) < number
    return arrival


def _arrivals(
    passed: Float[np.ndarray, " rows"],
    share: float,
    size: int,
    scratch: Float[np.ndarray, "2 rows"],
) -> None:
    """Turn the budgets that a cluster passes on into those that arrived at it, in place.

    The smallest r with r - min(round(r share), size) = passed. That is passed + t, with t the
    smallest number of own rows with round((passed + t) share) <= t, at most `size`.
    """
    if share == 1.0:
        passed += size
        return
    own, check = scratch
    np.multiply(passed, share / (1 - share), out=own)
    own -= 0.5 / (1 - share) + 1e-6  # one too few where this rounds up; corrected below
    np.ceil(own, out=own)
    np.add(passed, own, out=check)
    check *= share
    np.rint(check, out=check)
    np.greater(check, own, out=check)
    own += check
    np.minimum(own, size, out=own)
    passed += own
