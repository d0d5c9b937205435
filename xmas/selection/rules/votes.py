"""Several orders as one: every task votes for its best rows."""

import math

import numpy as np
from jaxtyping import Float, Int


def by_votes(
    scores: Float[np.ndarray, "rows tasks"], share: float
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """An order of all rows, and each row's votes: one of every task in whose best rows it is.

    Most votes first; of as many the lower mean rank over tasks, then the lower row. Rows with NaN
    have no vote and come last, by row.

    Args:
        share: of the rows with scores that a task votes for, in (0, 1]; rounded up. Of rows with
            the same score the lower comes first.

    Source: ICONS (arXiv 2501.00654), which votes for 20 %; where rows have as many votes, its
    release has them in no particular order. The mean rank is ours.
    """
    has = np.isfinite(scores).all(axis=1)
    rows = np.flatnonzero(has)
    best = np.argsort(-scores[rows], axis=0, kind="stable")
    ranks = np.argsort(best, axis=0, kind="stable")
    votes = np.zeros(len(scores), dtype=np.int64)
    votes[rows] = (ranks < math.ceil(share * len(rows))).sum(axis=1)
    total = np.full(len(scores), scores.shape[1] * len(scores))
    total[rows] = ranks.sum(axis=1)
    return np.lexsort((np.arange(len(scores)), total, -votes, ~has)), votes
