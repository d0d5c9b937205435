"""A tall memory-mapped array, a block of rows at a time, around its mean: PRISM, ScalSelect.

Rows without values (NaN) are left out. Products are of float32 blocks, summed in float64; so a file
of any size needs the memory of a block and of what is computed from it.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int

BLOCK_BYTES = 1 << 27  # of a block in float32


@dataclasses.dataclass(frozen=True)
class Centred:
    """The rows of an array that have values, minus their mean.

    Attributes:
        count: how many rows have values.
    """

    values: Float[np.ndarray, "rows width"]
    mean: Float[np.ndarray, " width"]
    count: int

    @classmethod
    def of(cls, values: Float[np.ndarray, "rows width"]) -> "Centred":
        """Find the mean, in a pass over the array.

        Raises ValueError: no row has a value.
        """
        total, count = np.zeros(values.shape[1]), 0
        for rows, block in _blocks(values):
            total += np.ones(len(rows), dtype=np.float32) @ block
            count += len(rows)
        if not count:
            raise ValueError(
                f"none of {len(values)} rows has a feature; the selector ranks rows with an image, "
                "of which this pool has none"
            )
        return cls(values, (total / count).astype(np.float32), count)

    def __iter__(self) -> Iterator[tuple[Int[np.ndarray, " block"], Float[np.ndarray, "block _"]]]:
        """Blocks: the numbers of rows that have values, and their values minus the mean."""
        for rows, block in _blocks(self.values):
            block -= self.mean
            yield rows, block


def _blocks(
    values: Float[np.ndarray, "rows width"],
) -> Iterator[tuple[Int[np.ndarray, " block"], Float[np.ndarray, "block _"]]]:
    """Blocks of float32 copies, and the numbers of their rows; rows of NaN are left out."""
    size = max(1, BLOCK_BYTES // (4 * values.shape[1]))
    for start in range(0, len(values), size):
        part = np.array(values[start : start + size])
        rows = np.flatnonzero(~np.isnan(part[:, 0]))
        part = part if len(rows) == len(part) else part[rows]
        yield start + rows, torch.from_numpy(part).float().numpy()  # faster than numpy's cast


def mean_correlation(centred: Centred) -> Float[np.ndarray, " rows"]:
    """The mean cosine of every row's centred vector to those of all others; NaN without a value.

    R_i = (u_i . sum_j u_j - |u_i|^2) / (N - 1), where u is of length one, or 0 where a row is the
    mean: the sum over all pairs without the pairs. NaN where there is no other row.
    """
    total = np.zeros(centred.values.shape[1])
    for _, block in centred:
        total += _inverse_lengths(block) @ block
    scores = np.full(len(centred.values), np.nan)
    for rows, block in centred:
        inverse = _inverse_lengths(block)
        scores[rows] = (block @ total.astype(np.float32)) * inverse - (inverse > 0)
    return scores / (centred.count - 1) if centred.count > 1 else np.full(len(scores), np.nan)


def leverage(centred: Centred, energy: float) -> tuple[Float[np.ndarray, " rows"], int]:
    """Leverage scores of the rows for the leading principal components, and the number of these.

    |U_k[i]|^2 for U S V^T, the singular value decomposition of the centred rows, and the fewest k
    components that have the fraction `energy` of the sum of squared singular values. V and S^2 are
    eigenvectors and eigenvalues of the width x width Gram matrix, and U = X V / S. Components whose
    variance is that of rounding are never counted. NaN where a row has no value.
    """
    width = centred.values.shape[1]
    gram = np.zeros((width, width))
    for _, block in centred:
        gram += block.T @ block  # the same array twice lets BLAS compute one half only
    variances, components = np.linalg.eigh(gram)
    variances, components = variances[::-1].clip(min=0), components[:, ::-1]
    cumulated = np.cumsum(variances)
    k = int(np.searchsorted(cumulated, energy * cumulated[-1])) + 1
    k = min(k, int((variances > np.finfo(np.float32).eps * variances[0]).sum()))
    whitening = (components[:, :k] / np.sqrt(variances[:k])).astype(np.float32)
    del gram, components
    scores = np.full(len(centred.values), np.nan)
    for rows, block in centred:
        left = block @ whitening
        scores[rows] = np.einsum("ij,ij->i", left, left)
    return scores, k


def _inverse_lengths(block: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, " rows"]:
    """One over the length of each row; 0 where that is 0."""
    lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
    return np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
