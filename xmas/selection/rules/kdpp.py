"""Exact samples of a k-DPP: k items with the determinant of their kernel as the odds.

Of two sets of equal quality the one whose items differ more is likelier. Everything is in float64,
and the elementary symmetric polynomials are kept as logarithms: of some hundred eigenvalues they
may leave float64's range.
"""

import math

import numpy as np
from jaxtyping import Float, Int


def log_elementary(
    log_values: Float[np.ndarray, " n"], k: int
) -> Float[np.ndarray, "orders counts"]:
    """Logarithm of the elementary symmetric polynomial of order l over the first m values, at
    [l, m], for l up to `k` and m up to n.

    Source: Kulesza and Taskar (arXiv 1207.6083), algorithm 7.
    """
    table = np.full((k + 1, len(log_values) + 1), -np.inf)
    table[0] = 0.0
    for count, value in enumerate(log_values, start=1):
        table[1:, count] = np.logaddexp(table[1:, count - 1], value + table[:-1, count - 1])
    return table


class KDpp:
    """Sets of `k` items out of n, with odds det(kernel[set, set]).

    Raises ValueError: k is not within 0 and the rank of the kernel, which is symmetric.
    Source: Kulesza and Taskar (arXiv 1207.6083), algorithms 1 and 8.
    """

    def __init__(self, kernel: Float[np.ndarray, "n n"], k: int) -> None:
        values, vectors = np.linalg.eigh(np.asarray(kernel, dtype=np.float64))
        smallest = values.max(initial=0.0) * len(values) * np.finfo(np.float64).eps
        held = values > smallest
        if not 0 <= k <= held.sum():
            raise ValueError(
                f"a kernel of rank {held.sum()} over {len(values)} items has no sets of {k}"
            )
        self.k = k
        self._vectors = vectors[:, held]
        table = log_elementary(np.log(values[held]), k)
        # Of m eigenvalues, l wanted: the odds that the last is one of them.
        with np.errstate(invalid="ignore"):  # l > m never happens
            self._odds = np.exp(np.log(values[held]) + table[:-1, :-1] - table[1:, 1:])

    def sample(self, rng: np.random.Generator) -> Int[np.ndarray, " k"]:
        """One set, ascending: eigenvectors are drawn, then items of the projection they span."""
        vectors = self._vectors[:, self._drawn_vectors(rng)]
        left = (vectors**2).sum(axis=1)  # squared distance to the span of those taken
        seen = np.zeros((self.k, len(vectors)))
        taken: list[int] = []
        for step, drawn in enumerate(1 - rng.random(self.k)):  # in (0, 1]: nothing of 0 is met
            sums = left.cumsum()
            item = int(sums.searchsorted(drawn * sums[-1]))
            along = vectors @ vectors[item] - seen[:step, item] @ seen[:step]
            seen[step] = along / math.sqrt(left[item])
            left = np.maximum(left - seen[step] ** 2, 0.0)
            taken.append(item)
            left[taken] = 0.0
        return np.array(sorted(taken), dtype=np.int64)

    def _drawn_vectors(self, rng: np.random.Generator) -> list[int]:
        wanted, kept = self.k, []
        drawn = rng.random(self._vectors.shape[1]).tolist()
        for vector in range(len(drawn) - 1, -1, -1):
            if wanted == 0:
                break
            if wanted == vector + 1 or drawn[vector] < self._odds[wanted - 1, vector]:
                kept.append(vector)
                wanted -= 1
        return kept
