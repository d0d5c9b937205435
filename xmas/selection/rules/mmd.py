"""Maximum mean discrepancy inside a cluster: the kernel of its rows, and the order of greedy MMD.

The kernel costs rows² x width, once; each row that greedy MMD adds then costs one line of the
kernel, where the release compares every candidate with all rows added before.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from xmas.store.arrays import reserve

PRECISIONS = ("float32", "float64")


def gaussian_kernel(
    points: Float[np.ndarray, "rows width"],
    *,
    width: float = 1.0,
    products: str = "float32",
    memory: int = 2**32,
    tile: int = 4096,
    columns: int = 2048,
) -> Float[np.ndarray, "rows rows"]:
    """exp(-|x - y|² / (2 width²)) of all pairs, float64, its diagonal one; computed tile by tile.

    Args:
        products: precision of the scalar products: float64, or float32 over `columns` features at
            a time whose sums are added in float64, within 1e-6 of float64 at half its time.
        memory: bytes; a larger kernel is in a temporary file.
        tile: rows of a tile of the kernel.
        columns: features that are summed in the precision of `products`.

    Raises:
        ValueError: another precision.

    Source: COINCIDE (arXiv 2406.10995), released `cluster_wise_prune.py`; there float64.
    """
    if products not in PRECISIONS:
        raise ValueError(f"products {products!r}: expected one of {', '.join(PRECISIONS)}")
    count = len(points)
    kernel = _matrix(count, memory)
    tiles = [slice(start, min(start + tile, count)) for start in range(0, count, tile)]
    for number, tile_rows in enumerate(tiles):
        for tile_columns in tiles[: number + 1]:
            kernel[tile_rows, tile_columns] = _products(
                points, tile_rows, tile_columns, products, columns
            )
            if tile_rows != tile_columns:
                kernel[tile_columns, tile_rows] = kernel[tile_rows, tile_columns].T
    norms = kernel.diagonal().copy()
    for tile_rows in tiles:
        lines = kernel[tile_rows]
        lines *= -2.0
        lines += norms
        lines += norms[tile_rows, None]  # now squared distances, zero on the diagonal
        np.maximum(lines, 0.0, out=lines)
        lines *= -0.5 / width**2
        np.exp(lines, out=lines)
    return kernel


def _products(
    points: Float[np.ndarray, "rows width"],
    tile_rows: slice,
    tile_columns: slice,
    precision: str,
    columns: int,
) -> Float[np.ndarray, "left right"]:
    """Scalar products of two slices of rows, summed over runs of `columns` features."""
    kind = getattr(torch, precision)
    features = points.shape[1]
    total = np.zeros((tile_rows.stop - tile_rows.start, tile_columns.stop - tile_columns.start))
    for start in range(0, features, columns):
        run = slice(start, min(start + columns, features))
        ours = torch.from_numpy(points[tile_rows, run]).to(kind).numpy()
        # The same array twice lets BLAS compute one half only.
        theirs = (
            ours
            if tile_rows == tile_columns
            else torch.from_numpy(points[tile_columns, run]).to(kind).numpy()
        )
        total += ours @ theirs.T
    return total


def _matrix(count: int, memory: int) -> Float[np.ndarray, "rows rows"]:
    if count * count * 8 <= memory:
        return np.empty((count, count))
    with tempfile.TemporaryFile() as file:  # the map keeps it open; it has no name
        reserve(file, count * count * 8, Path(tempfile.gettempdir()) / "kernel (unnamed)")
        return np.memmap(file, np.float64, "w+", shape=(count, count))


def greedy(kernel: Float[np.ndarray, "rows rows"]) -> Int[np.ndarray, " rows"]:
    """All rows, ordered so that each brings the rows before it closest to the whole cluster.

    The m-th row minimises mean(K_SS) - 2 mean(K_XS) over S, the first m rows, and X, all rows; of
    equals the first. With r the sum of a candidate's kernel to the m - 1 rows before, that is
    r / m - mean(K_X): the kernel's diagonal is constant, and terms that all candidates share are
    left out. The first n of this order are what greedy MMD selects with a budget of n.

    Source: COINCIDE, released `cluster_wise_prune.py`, where a step costs rows² x m.
    """
    count = len(kernel)
    pull = kernel.mean(axis=0)
    near = np.zeros(count)
    value = np.empty(count)
    order = np.empty(count, dtype=np.int64)
    for place in range(count):
        np.multiply(near, 1.0 / (place + 1), out=value)
        np.subtract(value, pull, out=value)
        best = int(value.argmin())
        order[place] = best
        near += kernel[best]
        near[best] = np.inf
    return order
