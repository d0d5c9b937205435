"""How much of a number of every row its text length alone explains."""

import numpy as np
from jaxtyping import Float, Int


def explained(value: Float[np.ndarray, " rows"], length: Int[np.ndarray, " rows"]) -> float | None:
    """The share of the variance of `value` that follows from the length, in [0, 1].

    What the best function of the length explains, of whatever shape: a curve of a given form would
    leave to the rows what is the curve's own fault. Rows that are neighbours in length differ by
    what length does not explain: half the mean square of their differences is the variance that is
    left (1 minus half of von Neumann's ratio). Noise has 0 give or take 1 / sqrt(rows), so that a
    few hundred rows can be set beside a few hundred thousand. For rows of one length it is the mean
    over all orders that they may come in: neighbours in a pool may be alike.

    None where values or lengths never vary, or there are fewer than three rows.
    Source: von Neumann (1941), Distribution of the ratio of the mean square successive difference
    to the variance; as an estimate of what a regression leaves, Rice (1984).
    """
    if len(value) < 3 or np.ptp(value) == 0 or np.ptp(length) == 0:
        return None
    _, group, count = np.unique(length, return_inverse=True, return_counts=True)
    mean = np.bincount(group, weights=value) / count
    within = np.bincount(group, weights=(value - mean[group]) ** 2)
    spread = within / count
    between = np.diff(mean) ** 2 + spread[1:] + spread[:-1]
    left = (2 * within.sum() + between.sum()) / (2 * (len(value) - 1))
    return max(0.0, 1 - float(left / value.var(ddof=1)))
