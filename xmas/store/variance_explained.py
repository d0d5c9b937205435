"""Variance explained by text length, in the lowest folder since `attention` and `results` share it.

It depends on numpy alone, and on neither what a row's number measures nor who computed it.
"""

import numpy as np
from jaxtyping import Float, Int


def explained(value: Float[np.ndarray, " rows"], length: Int[np.ndarray, " rows"]) -> float | None:
    """The share of the variance of `value` that follows from the length, in [0, 1].

    It is what the best function of the length explains, without assuming a form of the function:
    the error of a curve of a given form would count against the length. Half of the mean square of
    the differences between rows of neighbouring lengths is the variance that length does not
    explain (the share is 1 minus half of von Neumann's ratio). Rows of one length can be in any
    order, so the mean over all their orders is taken: neighbours in a pool may be alike. Noise has
    a share of 0, with a standard deviation of about 1 / sqrt(rows), so pools of different sizes
    can be compared.

    Returns None if values or lengths never vary, or there are fewer than three rows.
    Source: von Neumann (1941), Distribution of the ratio of the mean square successive difference
    to the variance; as an estimate of the variance that a regression leaves, Rice (1984).
    """
    if len(value) < 3 or np.ptp(value) == 0 or np.ptp(length) == 0:
        return None
    _, group, count = np.unique(length, return_inverse=True, return_counts=True)
    mean = np.bincount(group, weights=value) / count
    within = np.bincount(group, weights=(value - mean[group]) ** 2)
    spread = within / count
    between = np.diff(mean) ** 2 + spread[1:] + spread[:-1]
    unexplained = (2 * within.sum() + between.sum()) / (2 * (len(value) - 1))
    return max(0.0, 1 - float(unexplained / value.var(ddof=1)))
