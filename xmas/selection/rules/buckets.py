"""Quotas of buckets by softmax mass, and the best rows in each: how MAGIC spends a budget."""

import math

import numpy as np
from jaxtyping import Float, Int

_NORMAL = 1.4826  # MAD of a normal distribution times this is its standard deviation


def robust(values: Float[np.ndarray, " rows"], reach: float = 3.0) -> Float[np.ndarray, " rows"]:
    """Values in [0, 1]: 0.5 at the median, 0 and 1 where they are `reach` deviations from it.

    A deviation is the median absolute one, scaled to a normal distribution's standard deviation.
    Where that is 0, as where most values are equal, ranks take its place: the smallest 0, the
    largest 1, equal values at the mean of their ranks.
    """
    centre = np.median(values)
    deviation = _NORMAL * np.median(np.abs(values - centre))
    if deviation > 0:
        return 0.5 + ((values - centre) / deviation).clip(-reach, reach) / (2 * reach)
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts + 1) / 2
    return ranks[place] / max(1, len(values) - 1)


def quotas(
    masses: Float[np.ndarray, " buckets"],
    sizes: Int[np.ndarray, " buckets"],
    budget: int,
    cap: int,
) -> Int[np.ndarray, " buckets"]:
    """Rows of each bucket: min(size, cap, floor(budget x share)), and the rest to the remainders.

    The rest gives one row each to the buckets with the largest fractions of a row, ties to the
    earlier one, as long as a bucket has room. So the quotas may sum up to less than `budget`.
    """
    ideal = budget * (masses / masses.sum())
    whole = np.floor(ideal).astype(np.int64)
    room = np.minimum(sizes, cap)
    shares = np.minimum(whole, room)
    by_remainder = np.argsort(-(ideal - whole), kind="stable")
    with_room = by_remainder[shares[by_remainder] < room[by_remainder]]
    shares[with_room[: budget - int(shares.sum())]] += 1
    return shares


def best_of_buckets(
    quality: Float[np.ndarray, " rows"],
    signatures: Int[np.ndarray, "rows neurons"],
    budget: int,
    *,
    candidates: int,
    temperature: float,
    cap: float,
) -> Int[np.ndarray, " budget"]:
    """Positions of `budget` rows: of the best candidates by bucket, then the best of all.

    Rows with equal signatures are a bucket; its mass is the sum of exp(quality / temperature) over
    its candidates. What the quotas leave open is filled by quality, candidates first. Ties: the
    earlier row; of buckets the one with the lower signature.

    Args:
        quality: of the rows that may be chosen, `budget` at least.
        candidates: how many of the best rows share the budget by buckets.
        cap: fraction of the budget that a bucket has at most, rounded up to rows.
    """
    by_quality = np.argsort(-quality, kind="stable")
    shortlist = by_quality[:candidates]
    _, bucket = np.unique(signatures[shortlist], axis=0, return_inverse=True)
    bucket = bucket.reshape(-1)
    sizes = np.bincount(bucket)
    masses = np.bincount(bucket, weights=np.exp(quality[shortlist] / temperature))
    quota = quotas(masses, sizes, budget, math.ceil(cap * budget))
    by_bucket = np.argsort(bucket, kind="stable")  # inside a bucket the best first
    turn = np.arange(len(shortlist)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = np.zeros(len(quality), dtype=bool)
    chosen[shortlist[by_bucket[turn < quota[bucket[by_bucket]]]]] = True
    others = by_quality[~chosen[by_quality]]
    chosen[others[: budget - int(chosen.sum())]] = True
    return np.flatnonzero(chosen)
