"""Rows of a feature file and the centroids nearest to them, by scalar products, block by block."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xmas.attention.weights import free_bytes
from xmas.store.progress import Bar

HELD = 0.75  # of a GPU's free memory, at most, for the feature
SCALE = 4096.0  # of centroids in float16; a power of two


class Assigner:
    """Assigns rows of a feature file to the centroid with the largest scalar product.

    Of equal products the first counts. Rows are not normalised.

    Args:
        values: the memory-mapped feature; copied to a GPU once, where it fits.
        block: rows that are multiplied at a time.
    """

    def __init__(
        self, values: Float[np.ndarray, "rows width"], block: int, device: torch.device
    ) -> None:
        self.values = values
        self.block = block
        self.device = device
        self._held = self._copied() if self._fits() else None

    def __call__(
        self,
        rows: Int[np.ndarray, " some"],
        centroids: Float[Tensor, "k width"],
        *,
        sums: Float[Tensor, "k width"] | None = None,
        progress: Bar,
    ) -> tuple[Int[np.ndarray, " some"], Float[np.ndarray, " some"]]:
        """The cluster of every row and the product with its centroid.

        Args:
            rows: ascending.
            sums: of every cluster, to which its rows are added.
            progress: counts the rows.

        Raises:
            ValueError: a row is not finite; names it.
        """
        labels = torch.empty(len(rows), dtype=torch.int64, device=self.device)
        nearness = torch.empty(len(rows), dtype=torch.float32, device=self.device)
        by_tensor_cores = self.device.type == "cuda" and self.values.dtype == np.float16
        factors = halves(centroids) if by_tensor_cores else None
        for span, block in self._blocks(rows):
            if factors is None:
                products = block.float() @ centroids.T
            else:
                products = multiplied(block, factors)
            best, where = products.max(dim=1)
            nearness[span], labels[span] = best, where
            if sums is not None:
                add(sums, where, block.float())
            progress.update(len(block))
        products_of_rows = nearness.cpu().numpy()  # the one wait for a GPU
        finite = np.isfinite(products_of_rows)
        if not finite.all():
            row = rows[int(np.argmin(finite))]
            raise ValueError(f"spherical k-means: row {row} of the features is not finite")
        return labels.cpu().numpy(), products_of_rows

    def read(self, rows: Int[np.ndarray, " some"]) -> Float[Tensor, "some width"]:
        """Some rows, float32, on the device."""
        return self._read(rows).float()

    def _read(self, rows: Int[np.ndarray, " some"]) -> Float[Tensor, "some width"]:
        """Some rows, as stored, on the device; consecutive rows are read as one slice."""
        consecutive = len(rows) > 0 and (np.diff(rows) == 1).all()
        if self._held is not None:
            if consecutive:
                return self._held[rows[0] : rows[-1] + 1]
            return self._held[torch.from_numpy(rows).to(self.device)]
        values = self.values[rows[0] : rows[-1] + 1] if consecutive else self.values[rows]
        return torch.tensor(values).to(self.device)

    def _fits(self) -> bool:
        return self.device.type == "cuda" and self.values.nbytes <= HELD * free_bytes(self.device)

    def _copied(self) -> Float[Tensor, "rows width"]:
        dtype = torch.from_numpy(self.values[:0].copy()).dtype
        copy = torch.empty(self.values.shape, dtype=dtype, device=self.device)
        for start in range(0, len(self.values), self.block):
            span = slice(start, start + self.block)
            copy[span] = torch.tensor(self.values[span]).to(self.device)
        return copy

    def _blocks(
        self, rows: Int[np.ndarray, " some"]
    ) -> Iterator[tuple[slice, Float[Tensor, "block width"]]]:
        for start in range(0, len(rows), self.block):
            span = slice(start, min(start + self.block, len(rows)))
            yield span, self._read(rows[span])


def halves(
    centroids: Float[Tensor, "k width"],
) -> tuple[Float[Tensor, "k width"], Float[Tensor, "k width"]]:
    """Two float16 matrices whose sum is `SCALE` times the centroids, to 22 bits.

    The scale keeps the second one above float16's subnormal numbers. Centroids have length one.
    """
    scaled = centroids * SCALE
    high = scaled.half()
    return high, (scaled - high.float()).half()


def multiplied(
    block: Float[Tensor, "rows width"],
    factors: tuple[Float[Tensor, "k width"], Float[Tensor, "k width"]],
) -> Float[Tensor, "rows k"]:
    """The products of float16 rows with centroids from `halves`, as exact as in float32.

    Two products on tensor cores, with float32 sums, are an eighth of the time of one in float32.
    """
    high, low = (
        torch.bmm(block[None], factor.T[None], out_dtype=torch.float32)[0] for factor in factors
    )
    return high.add_(low).div_(SCALE)


def add(sums: Tensor, where: Tensor, block: Tensor) -> None:
    """Add rows to the sums of their clusters, in the order of the rows on every device."""
    if sums.is_cuda:
        sums.index_put_((where,), block, accumulate=True)  # sorts first; index_add_ would race
    else:
        sums.index_add_(0, where, block)
