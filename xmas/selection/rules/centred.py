"""A tall memory-mapped array, a block of rows at a time, around its mean: PRISM, ScalSelect.

Rows without values (NaN) are left out. Products are of float32 blocks, summed in float64; so a file
of any size needs the memory of a block and of what is computed from it.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int

from xmas.store.progress import bar

BLOCK_BYTES = 1 << 27  # of a block in float32
Block = tuple[Int[np.ndarray, " block"], Float[np.ndarray, "block _"]]  # rows, and their values


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
        for rows, block in _blocks(values, None, label="mean feature"):
            total += np.ones(len(rows), dtype=np.float32) @ block
            count += len(rows)
        if not count:
            raise ValueError(
                f"none of {len(values)} rows has a feature; the selector ranks rows with an image, "
                "of which this pool has none"
            )
        return cls(values, (total / count).astype(np.float32), count)

    def blocks(self, label: str) -> Iterator[Block]:
        """The numbers of rows that have values, and their values minus the mean.

        Args:
            label: of the progress bar.
        """
        return _blocks(self.values, self.mean, label=label)


def _blocks(
    values: Float[np.ndarray, "rows width"], mean: Float[np.ndarray, " width"] | None, *, label: str
) -> Iterator[Block]:
    """Blocks of float32 copies, minus `mean`, and the numbers of their rows; none of NaN.

    By torch, whose casts and differences use all threads.
    """
    size = max(1, BLOCK_BYTES // (4 * values.shape[1]))
    with bar(total=len(values), label=label) as progress:
        for start in range(0, len(values), size):
            part = values[start : start + size]
            rows = np.flatnonzero(~np.isnan(part[:, 0]))
            block = torch.from_numpy(part[rows]).float()
            if mean is not None:
                block -= torch.from_numpy(mean)
            yield start + rows, block.numpy()
            progress.update(len(part))


def mean_correlation(centred: Centred) -> Float[np.ndarray, " rows"]:
    """The mean cosine of every row's centred vector to those of all others; NaN without a value.

    R_i = (u_i . sum_j u_j - |u_i|^2) / (N - 1), where u is of length one, or 0 where a row is the
    mean: the sum over all pairs without the pairs. NaN where there is no other row.
    """
    total = np.zeros(centred.values.shape[1])
    for _, block in centred.blocks("sum of directions"):
        total += _inverse_lengths(block) @ block
    scores = np.full(len(centred.values), np.nan)
    for rows, block in centred.blocks("correlations"):
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
    gram = torch.zeros(width, width, dtype=torch.float64)
    for _, block in centred.blocks("gram matrix"):
        # The same array twice lets BLAS compute one half only.
        gram += torch.from_numpy(block.T @ block)
    variances, components = np.linalg.eigh(gram.numpy())
    variances, components = variances[::-1].clip(min=0), components[:, ::-1]
    cumulated = np.cumsum(variances)
    k = int(np.searchsorted(cumulated, energy * cumulated[-1])) + 1
    k = min(k, int((variances > np.finfo(np.float32).eps * variances[0]).sum()))
    whitening = (components[:, :k] / np.sqrt(variances[:k])).astype(np.float32)
    del gram, components
    scores = np.full(len(centred.values), np.nan)
    for rows, block in centred.blocks("leverages"):
        left = block @ whitening
        scores[rows] = np.einsum("ij,ij->i", left, left)
    return scores, k


def _inverse_lengths(block: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, " rows"]:
    """One over the length of each row; 0 where that is 0."""
    lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
    return np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
