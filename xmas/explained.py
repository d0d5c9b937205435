"""How much of a number of every row its text length alone explains."""

import numpy as np
from jaxtyping import Float, Int


def explained(value: Float[np.ndarray, " rows"], length: Int[np.ndarray, " rows"]) -> float | None:
    """The share of the variance of `value` that follows from the length, in [0, 1].

    What the best function of the length explains, of whatever shape: a curve of a given form would
    leave to the rows what is the curve's own fault. Rows that are neighbours in length differ by
    what length does not explain: half the mean square of their differences is the variance that is
    left (1 minus half of von Neumann's ratio). Noise has 0 give or take 1 / sqrt(rows), so that a
    few hundred rows can be set beside a few hundred thousand. Rows of one length come in a random
    order, always the same: those that are neighbours in a pool may be alike.

    None where values or lengths never vary, or there are fewer than three rows.
    Source: von Neumann (1941), Distribution of the ratio of the mean square successive difference
    to the variance; as an estimate of what a regression leaves, Rice (1984).
    """
    if len(value) < 3 or np.ptp(value) == 0 or np.ptp(length) == 0:
        return None
    mixed = np.random.default_rng(0).permutation(len(value))
    ordered = value[mixed[np.argsort(length[mixed], kind="stable")]]
    left = float((np.diff(ordered) ** 2).mean()) / 2
    return max(0.0, 1 - left / float(value.var(ddof=1)))
