"""Exact samples of a k-DPP: sets of k items, with odds that are the determinant of their kernel.

Of two sets of equal quality the one whose items differ more is likelier. All arithmetic is in
float64; the elementary symmetric polynomials are logarithms, since those of a few hundred
eigenvalues may exceed float64's range.
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
        positive = values > smallest
        if not 0 <= k <= positive.sum():
            raise ValueError(
                f"a kernel of rank {positive.sum()} over {len(values)} items has no sets of {k}"
            )
        self.k = k
        self._vectors = vectors[:, positive]
        table = log_elementary(np.log(values[positive]), k)
        # At [l, m], the probability that the last of m eigenvalues is among the l to be drawn.
        with np.errstate(invalid="ignore"):  # l > m never happens
            self._odds = np.exp(np.log(values[positive]) + table[:-1, :-1] - table[1:, 1:])

    def sample(self, rng: np.random.Generator) -> Int[np.ndarray, " k"]:
        """One set, ascending: draw eigenvectors, then items of the projection that they span."""
        vectors = self._vectors[:, self._drawn_vectors(rng)]
        distance = (vectors**2).sum(axis=1)  # squared, to the span of the items drawn so far
        basis = np.zeros((self.k, len(vectors)))
        items: list[int] = []
        for step, share in enumerate(1 - rng.random(self.k)):  # in (0, 1]: skips items of odds 0
            sums = distance.cumsum()
            item = int(sums.searchsorted(share * sums[-1]))
            items.append(item)
            if len(items) == self.k:
                break  # no distance is asked for after the last item
            along = vectors @ vectors[item] - basis[:step, item] @ basis[:step]
            basis[step] = along / math.sqrt(distance[item])
            distance = np.maximum(distance - basis[step] ** 2, 0.0)
            distance[item] = 0.0  # as those of the items before remain
        return np.array(sorted(items), dtype=np.int64)

    def _drawn_vectors(self, rng: np.random.Generator) -> list[int]:
        missing, columns = self.k, []
        uniform = rng.random(self._vectors.shape[1]).tolist()
        for vector in range(len(uniform) - 1, -1, -1):
            if missing == 0:
                break
            if missing == vector + 1 or uniform[vector] < self._odds[missing - 1, vector]:
                columns.append(vector)
                missing -= 1
        return columns
