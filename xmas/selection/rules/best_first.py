"""From scores to an order: best first, ties by row, rows without a score behind them."""

import numpy as np
from jaxtyping import Float, Int


def best_first(
    scores: Float[np.ndarray, " rows"], rng: np.random.Generator
) -> Int[np.ndarray, " rows"]:
    """All rows by falling score; those without one (NaN) last, in random order.

    Text-only rows are such to methods that look at images: `subset.text_only` sets their share, and
    which of them come first is not for a method to say that cannot tell.
    """
    shuffled = rng.permutation(len(scores))
    without = np.isnan(scores)
    ties = np.where(without, shuffled, np.arange(len(scores)))
    return np.lexsort((ties, np.where(without, np.inf, -scores)))
