"""From scores to an order: best first, ties by row, rows without a score last."""

import numpy as np
from jaxtyping import Float, Int


def best_first(
    scores: Float[np.ndarray, " rows"], rng: np.random.Generator
) -> Int[np.ndarray, " rows"]:
    """All rows by falling score, ties by row; rows without a score (NaN) last, in random order.

    Text-only rows have no score in methods that use images: `subset.text_only` sets their share,
    and a random order prefers none of them.
    """
    shuffled = rng.permutation(len(scores))
    without = np.isnan(scores)
    ties = np.where(without, shuffled, np.arange(len(scores)))
    return np.lexsort((ties, np.where(without, np.inf, -scores)))
