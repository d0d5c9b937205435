"""Greedy choice of points whose gain falls with their closeness to the chosen ones, exact and lazy.

A gain never rises as more points are chosen, so a stale one bounds it from above. Only the points
with the highest bounds, the front, are compared with every choice; a choice is valid while it beats
the highest bound outside. When none does, stale points with the highest bounds form the next front
and are compared in blocks with what was chosen since. The order is that of the plain greedy rule,
up to the rounding of float32 products.
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from xmas.store.progress import bar

if TYPE_CHECKING:
    import torch

FRONT = {"cpu": 2048, "cuda": 16384}  # points compared with every choice, by type of device
_BLOCK = {"cpu": (2048, 1024), "cuda": (16384, 8192)}  # of products: the CPU's fits its caches
_PROJECTED_ROWS = 65536  # at a time


def farthest_points(
    points: Float[np.ndarray, "points d"], count: int, *, front: int | None = None
) -> Int[np.ndarray, " count"]:
    """Positions by farthest-point sampling: the largest norm, then the largest Euclidean distance
    to the nearest chosen point; ties to the lower position. On a GPU if there is one.

    Args:
        front: points compared with every choice; no part of the result.

    Raises ValueError: there are fewer points than `count`, or one is not finite.
    """
    _check(points, count)
    if not count:
        return np.zeros(0, dtype=np.int64)
    norms = np.einsum("nd,nd->n", points, points, dtype=np.float64)
    # Distances do not depend on the origin, and products are most precise around the mean.
    centred = points.astype(np.float32) - points.mean(axis=0, dtype=np.float64).astype(np.float32)
    half = np.einsum("nd,nd->n", centred, centred, dtype=np.float64) / 2
    greedy = _Greedy(centred, half, offsets=half, count=count, front=front)
    greedy.choose(int(np.argmax(norms)))
    greedy.run("farthest points")
    return np.array(greedy.order, dtype=np.int64)


def quality_and_diversity(
    quality: Float[np.ndarray, " points"],
    points: Float[np.ndarray, "points d"],
    count: int,
    *,
    front: int | None = None,
) -> tuple[Int[np.ndarray, " count"], Float[np.ndarray, " points"]]:
    """Greedy order by quality plus diversity, and the gain of every point.

    The diversity of a point is 1 - max(0, its largest inner product with a chosen point). Ties go
    to the lower position. On a GPU if there is one.

    Args:
        points: unit vectors.
        front: points compared with every choice; no part of the result.

    Returns: `count` positions in the order of choice; the gain of a chosen point when it was
    chosen, of any other after the last choice.

    Raises ValueError: there are fewer points than `count`, or one is not finite.
    """
    _check(points, count)
    greedy = _Greedy(points, quality + 1.0, offsets=None, count=count, front=front)
    greedy.run("quality and diversity")
    return np.array(greedy.order, dtype=np.int64), greedy.gains()


def projected(
    points: Float[np.ndarray, "points d"], width: int, rng: np.random.Generator
) -> Float[np.ndarray, "points width"]:
    """Points in fewer dimensions by a Gaussian projection, which keeps inner products and distances
    in expectation; float32. Points that have `width` dimensions or fewer are unchanged.
    """
    if points.shape[1] <= width:
        return np.asarray(points, dtype=np.float32)
    matrix = rng.normal(scale=width**-0.5, size=(points.shape[1], width)).astype(np.float32)
    values = np.empty((len(points), width), dtype=np.float32)
    for start in range(0, len(points), _PROJECTED_ROWS):
        rows = slice(start, start + _PROJECTED_ROWS)
        values[rows] = points[rows].astype(np.float32) @ matrix
    return values


def _check(points: Float[np.ndarray, "points d"], count: int) -> None:
    if not 0 <= count <= len(points):
        raise ValueError(f"{count} of {len(points)} points cannot be chosen")
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        position = int(np.argmin(finite))
        raise ValueError(
            f"point {position} is not finite: {points[position]}; check the feature of this row"
        )


class _Greedy:
    """The state of one greedy run: gain(i) = base(i) - max over chosen j of (x_i . x_j - offset_j).

    Without offsets the maximum is never below zero.

    Attributes:
        order: positions chosen so far.
    """

    def __init__(
        self,
        points: Float[np.ndarray, "points d"],
        base: Float[np.ndarray, " points"],
        *,
        offsets: Float[np.ndarray, " points"] | None,
        count: int,
        front: int | None,
    ) -> None:
        import torch

        from xmas.models.device import device_for  # loads torch

        device = device_for("auto")
        self._torch = torch
        self._points = torch.as_tensor(np.asarray(points, dtype=np.float32), device=device)
        self._base = torch.as_tensor(base, dtype=torch.float32, device=device)
        self._offsets = torch.zeros_like(self._base)
        self._bound = self._base.clone()  # of every point's gain; -inf once it is chosen
        if offsets is not None:
            self._offsets = torch.as_tensor(offsets, dtype=torch.float32, device=device)
            self._bound.fill_(np.inf)
        self._at_choice = torch.full_like(self._base, np.nan)
        self._compared = torch.zeros(len(points), dtype=torch.int64, device=device)
        self._chosen = torch.empty((count, points.shape[1]), device=device)
        self._chosen_offsets = torch.empty(count, device=device)
        self._count = count
        self._size = min(front or FRONT[device.type], len(points))
        self._block = _BLOCK[device.type]
        self.order: list[int] = []
        self._set_front(torch.zeros(0, dtype=torch.int64, device=device))

    def run(self, label: str) -> None:
        """Choose until there are `count`."""
        with bar(total=self._count, label=label, initial=len(self.order)) as progress:
            while len(self.order) < self._count:
                self._next_front()
                before = len(self.order)
                self._choose_from_front()
                progress.update(len(self.order) - before)
        self._return_front()

    def gains(self) -> Float[np.ndarray, " points"]:
        """Of a chosen point the gain when it was chosen, of any other after the last choice."""
        rest = (self._bound > -np.inf).nonzero()[:, 0]
        self._compare(rest)
        gains = self._at_choice.clone()
        gains[rest] = self._bound[rest]
        return gains.double().cpu().numpy()

    def choose(self, position: int) -> None:
        """Choose a point, also without the largest gain; compares nothing."""
        number = len(self.order)
        self.order.append(position)
        self._chosen[number] = self._points[position]
        self._chosen_offsets[number] = self._offsets[position]
        self._at_choice[position] = self._bound[position]
        self._bound[position].fill_(-np.inf)

    def _choose_from_front(self) -> None:
        """Choose from the front while its best beats every bound outside."""
        positions, points, base, gains = self._front
        limit, limit_position = self._limit
        while len(self.order) < self._count and len(positions):
            largest, index = gains.max(dim=0)  # the first of equals, and positions ascend
            at = positions.index_select(0, index.reshape(1))[0]
            numbers = [index.double(), largest.double(), at.double()]  # one wait for the device
            best, gain, position = self._torch.stack(numbers).tolist()
            best, position = int(best), int(position)
            if gain == -np.inf or (gain, -position) < (limit, -limit_position):
                return
            self._bound[position].fill_(gain)  # an assignment would wait for a copy
            self.choose(position)
            gains[best].fill_(-np.inf)
            closeness = points @ self._points[position] - self._offsets[position]
            self._torch.minimum(gains, base - closeness, out=gains)

    def _next_front(self) -> None:
        """The points with the highest bounds, compared with all that is chosen."""
        self._return_front()
        bound = self._bound
        least = bound.topk(self._size).values[-1]
        above = (bound > least).nonzero()[:, 0]
        equal = (bound == least).nonzero()[: self._size - len(above), 0]
        positions = self._torch.cat([above, equal]).sort().values
        self._compare(positions)
        self._set_front(positions)

    def _set_front(self, positions: "torch.Tensor") -> None:
        gains = self._bound[positions]
        self._bound[positions] = -np.inf
        limit_position = int(self._bound.argmax())
        self._limit = float(self._bound[limit_position]), limit_position
        self._bound[positions] = gains
        self._front = positions, self._points[positions], self._base[positions], gains

    def _return_front(self) -> None:
        positions, _, _, gains = self._front
        self._bound[positions] = gains
        self._compared[positions] = len(self.order)

    def _compare(self, positions: "torch.Tensor") -> None:
        """Bring the bounds of these points up to date."""
        if not len(positions):
            return
        rows, columns = self._block
        for part in positions[self._compared[positions].argsort()].split(rows):
            points, bound, base = self._points[part], self._bound[part], self._base[part]
            for start in range(int(self._compared[part[0]]), len(self.order), columns):
                span = slice(start, min(start + columns, len(self.order)))
                closeness = points @ self._chosen[span].T
                closeness -= self._chosen_offsets[span]
                bound = self._torch.minimum(bound, base - closeness.amax(dim=1))
            self._bound[part] = bound
        self._compared[positions] = len(self.order)
