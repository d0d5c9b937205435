"""How COINCIDE splits a budget over clusters, as an order: which cluster gives a row next.

Clusters are visited from the highest score down. Each gives its rounded share of what the ones
before it have left, or all it has. One row more of budget makes exactly one cluster give one row
more, or none where the rounding falls short. So the subsets of all budgets are the prefixes of one
order: that of the smallest budgets at which each row is given.
"""

import numpy as np
from jaxtyping import Float, Int


def transferability(
    centroids: Float[np.ndarray, "clusters width"], *, near_duplicate: float = 0.9
) -> Float[np.ndarray, " clusters"]:
    """Mean cosine of every cluster to the others that are no near-duplicates of it.

    Pairs above `near_duplicate` are left out, a cluster with itself among them; NaN where no other
    is left. Source: COINCIDE, released `cluster_transferability.py`.
    """
    lengths = np.linalg.norm(centroids, axis=1, keepdims=True)
    units = centroids / np.where(lengths > 0, lengths, 1.0)
    cosines = units @ units.T
    kept = cosines <= near_duplicate
    np.fill_diagonal(kept, False)  # a centroid of zeros is near nothing, itself included
    count = kept.sum(axis=1)
    total = np.einsum("ij,ij->i", cosines, kept, dtype=np.float64)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def shares(
    scores: Float[np.ndarray, " clusters"], temperature: float
) -> tuple[Int[np.ndarray, " clusters"], Float[np.ndarray, " clusters"]]:
    """Clusters from the highest score down, of equals the lower first, and the share of each.

    A share is the softmax of score / temperature over the cluster and those behind it; the last is
    one.
    """
    order = np.argsort(-scores, kind="stable")
    logits = scores[order] / temperature
    found = np.ones(len(logits))
    rest = 1.0
    for place in range(len(logits) - 2, -1, -1):
        rest = 1.0 + rest * np.exp(logits[place + 1] - logits[place])
        found[place] = 1.0 / rest
    return order, found


def given(
    budget: int, share: Float[np.ndarray, " clusters"], sizes: Int[np.ndarray, " clusters"]
) -> Int[np.ndarray, " clusters"]:
    """Rows that every cluster gives to a budget, in the order of visits: the released rule.

    Halves are rounded to even. The sum is the budget or less: where late clusters are too small for
    what they are left, nobody gives the rest.

    Source: COINCIDE, released `cluster_wise_prune.py`.
    """
    counts = np.zeros_like(sizes)
    left = budget
    for place, (part, size) in enumerate(zip(share.tolist(), sizes.tolist(), strict=True)):
        counts[place] = min(round(left * part), size)
        left -= int(counts[place])
    return counts


def budgets(
    share: Float[np.ndarray, " clusters"], sizes: Int[np.ndarray, " clusters"]
) -> Float[np.ndarray, " rows"]:
    """The smallest budget to which every cluster gives its first row, its second, and so on.

    One cluster's rows behind the other's, in the order of visits; whole numbers, all different. The
    last rows may need budgets beyond the number of rows.
    """
    found = np.empty(int(sizes.sum()))
    scratch = np.empty((2, len(found)))  # thousands of passes: allocating would cost more than they
    start = len(found)
    for part, size in zip(share[::-1].tolist(), sizes[::-1].tolist(), strict=True):
        _behind(found[start:], part, size, scratch[:, start:])
        found[start - size : start] = _own(part, size)
        start -= size
    return found


def _own(share: float, size: int) -> Float[np.ndarray, " size"]:
    """The arrivals at which a cluster gives its first row, its second, …: smallest r with
    round(r share) >= n.
    """
    wanted = np.arange(1, size + 1)
    arrival = np.ceil((wanted - 0.5) / share)
    arrival -= np.rint((arrival - 1) * share) >= wanted  # halves go to even, products are rounded
    arrival += np.rint(arrival * share) < wanted
    return arrival


def _behind(
    passed: Float[np.ndarray, " rows"],
    share: float,
    size: int,
    scratch: Float[np.ndarray, "2 rows"],
) -> None:
    """Turn counts of what a cluster has passed on into counts of what had arrived there, in place.

    The smallest r with r - min(round(r share), size) = passed: with t rows kept, the smallest t
    with round((passed + t) share) <= t, at most `size`.
    """
    if share == 1.0:
        passed += size
        return
    kept, check = scratch
    np.multiply(passed, share / (1 - share), out=kept)
    kept -= 0.5 / (1 - share) + 1e-6  # one less where this is rounded up; mended below
    np.ceil(kept, out=kept)
    np.add(passed, kept, out=check)
    check *= share
    np.rint(check, out=check)
    np.greater(check, kept, out=check)
    kept += check
    np.minimum(kept, size, out=kept)
    passed += kept
