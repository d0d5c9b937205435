"""Nearest neighbours of every row, by FAISS: exact for small pools, inverted lists for large."""

import numpy as np
from jaxtyping import Float, Int

_TRAINING = 64  # points per list that the lists are trained on
_LEAST = 50  # points per list; with fewer the search is exact. FAISS warns under 39


def neighbours(
    points: Float[np.ndarray, "points d"], count: int, *, lists: int, probes: int
) -> tuple[Int[np.ndarray, "points count"], Float[np.ndarray, "points count"]]:
    """The `count` nearest other points of every point, and their squared Euclidean distances.

    Nearest first. If there are fewer, the point itself fills up, at an infinite distance.

    Args:
        lists: cells of the index; with fewer than 50 points per list the search is exact.
        probes: cells that are searched; the result then has most, not all of the nearest.

    Raises:
        ValueError: a value is not finite.
    """
    import faiss

    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        raise ValueError(
            f"neighbours: point {int(np.argmax(bad))} is not finite; check the feature of this row"
        )
    vectors = np.ascontiguousarray(points, dtype=np.float32)
    total, width = vectors.shape
    index = faiss.IndexFlatL2(width)
    if total >= _LEAST * lists:
        index = faiss.IndexIVFFlat(index, width, lists)
        index.nprobe = probes
        index.cp.seed = 1234  # FAISS's own default
        index.train(vectors[:: max(1, total // (_TRAINING * lists))])
    index.add(vectors)
    near = np.repeat(np.arange(total)[:, None], count, axis=1)
    apart = np.full((total, count), np.inf, dtype=np.float32)
    limit = min(count + 1, total)
    for start in range(0, total, 4096):
        rows = np.arange(start, min(start + 4096, total))
        distances, indices = index.search(vectors[rows], limit)
        # The row itself last: copies of it, at the same distance, may precede it.
        own = (indices == rows[:, None]) | (indices < 0)
        order = np.argsort(own, axis=1, kind="stable")[:, : min(count, limit)]
        own, indices, distances = (
            np.take_along_axis(a, order, 1) for a in (own, indices, distances)
        )
        near[rows, : order.shape[1]] = np.where(own, rows[:, None], indices)
        apart[rows, : order.shape[1]] = np.where(own, np.inf, np.maximum(distances, 0))
    return near, apart
