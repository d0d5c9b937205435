"""Nearest neighbours of every row, by FAISS: exact for small pools, in inverted lists for large."""

import numpy as np
from jaxtyping import Float, Int

_TRAINING = 64  # points a list that the lists are made from
_LEAST = 50  # points a list under which lists are not worth it; FAISS itself asks for 39


def neighbours(
    points: Float[np.ndarray, "points d"], count: int, *, lists: int, probes: int
) -> tuple[Int[np.ndarray, "points count"], Float[np.ndarray, "points count"]]:
    """The `count` nearest other points of each, and squared Euclidean distances, near ones first.

    From 50 points a list on, only the `probes` nearest of `lists` cells are searched: most, not all
    of the nearest are found. Where there are fewer than `count`, the point itself stands in at an
    infinite distance. Raises ValueError: a value is not finite.
    """
    import faiss

    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        raise ValueError(f"neighbours: point {int(np.argmax(bad))} is not finite")
    data = np.ascontiguousarray(points, dtype=np.float32)
    total, width = data.shape
    index = faiss.IndexFlatL2(width)
    if total >= _LEAST * lists:
        index = faiss.IndexIVFFlat(index, width, lists)
        index.nprobe = probes
        index.cp.seed = 1234  # FAISS's own default
        index.train(data[:: max(1, total // (_TRAINING * lists))])
    index.add(data)
    near = np.repeat(np.arange(total)[:, None], count, axis=1)
    apart = np.full((total, count), np.inf, dtype=np.float32)
    wanted = min(count + 1, total)
    for start in range(0, total, 4096):
        rows = np.arange(start, min(start + 4096, total))
        distances, found = index.search(data[rows], wanted)
        # The row itself goes last, even where copies of it come before it.
        own = (found == rows[:, None]) | (found < 0)
        order = np.argsort(own, axis=1, kind="stable")[:, : min(count, wanted)]
        own, found, distances = (np.take_along_axis(a, order, 1) for a in (own, found, distances))
        near[rows, : order.shape[1]] = np.where(own, rows[:, None], found)
        apart[rows, : order.shape[1]] = np.where(own, np.inf, np.maximum(distances, 0))
    return near, apart
