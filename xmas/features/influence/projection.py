"""Gradients of many weights as a few numbers, by random signs, inner products kept on average."""

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from xmas.features.influence.signs import signs, stream_of

BLOCK = 1 << 13  # numbers of a gradient that are multiplied at a time; fixed, so that sums are too


class Signs:
    """The random matrix of a projection, block by block; blocks are kept as long as they fit.

    Args:
        seed: of the signs.
        width: columns, the numbers that remain of a gradient.
        resident_bytes: of the blocks that are kept; the others are made again for every batch.
    """

    def __init__(self, seed: int, width: int, resident_bytes: int) -> None:
        self.seed, self.width = seed, width
        self._free = resident_bytes
        self._blocks: dict[tuple[int, int], Int8[Tensor, "numbers width"]] = {}

    def of(self, number: int, rows: range, device: torch.device) -> Int8[Tensor, "numbers width"]:
        """The signs of some numbers of the gradient of layer `number`."""
        place = number, rows.start
        if place in self._blocks:
            return self._blocks[place]
        block = signs(stream_of(self.seed, number), rows, self.width, device)
        if block.numel() <= self._free:
            self._free -= block.numel()
            self._blocks[place] = block
        return block


class Projected:
    """Rows' gradients times a matrix of random signs, summed over layers as they come.

    By Johnson and Lindenstrauss the cosine of two rows is that of their whole gradients up to about
    1/sqrt(width).

    Source: TRAK (arXiv 2303.14186), as used by LESS (arXiv 2402.04333). The signs are those of
    `xmas.features.influence.signs`, not of TRAK's kernel.
    """

    def __init__(self, matrix: Signs, rows: int, device: torch.device) -> None:
        self.matrix = matrix
        self.sums: Float[Tensor, "rows width"] = torch.zeros((rows, matrix.width), device=device)

    def add(self, number: int, gradients: Float[Tensor, "rows out in"]) -> None:
        """Add the gradients of layer `number`, in float32."""
        flat = gradients.flatten(1).float()
        for start in range(0, flat.shape[1], BLOCK):
            block = flat[:, start : start + BLOCK]
            rows = range(start, start + block.shape[1])
            self.sums += block @ self.matrix.of(number, rows, flat.device).to(flat.dtype)

    def unit(self) -> Float[Tensor, "rows width"]:
        """The projections at length 1; NaN of a row whose gradient is zero."""
        return self.sums / self.sums.norm(dim=1, keepdim=True)
