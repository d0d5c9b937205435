"""Neighbours: exact where exact is promised, most of them where it is not."""

import numpy as np
import pytest

from xmas.features.clustering.neighbours import neighbours


def brute_force(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    apart = sum(np.subtract.outer(axis, axis) ** 2 for axis in points.T.astype(np.float64))
    np.fill_diagonal(apart, np.inf)
    nearest = np.argpartition(apart, count, axis=1)[:, :count]
    distances = np.take_along_axis(apart, nearest, axis=1)
    order = np.argsort(distances, axis=1)
    return np.take_along_axis(nearest, order, axis=1), np.take_along_axis(distances, order, axis=1)


def drawn(count: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def test_small_pools_are_searched_exactly():
    points = drawn(131, 7)
    near, apart = neighbours(points, 5, lists=2048, probes=1)
    expected, distances = brute_force(points, 5)
    assert near.tolist() == expected.tolist()
    assert apart == pytest.approx(distances, rel=1e-4)


def test_large_pools_find_most_of_them():
    points = drawn(2003, 5)
    expected, _ = brute_force(points, 5)
    found = {}
    for probes in (1, 8, 40):
        near, apart = neighbours(points, 5, lists=40, probes=probes)
        assert (np.diff(apart, axis=1) >= 0).all()
        found[probes] = np.mean([len({*a} & {*b}) / 5 for a, b in zip(near, expected, strict=True)])
    assert found[1] < found[8] < found[40]
    assert found[8] > 0.8
    assert found[40] == 1


def test_a_row_is_no_neighbour_of_itself_even_among_copies():
    points = np.repeat(drawn(3, 4), 6, axis=0)
    near, apart = neighbours(points, 4, lists=2048, probes=1)
    assert (near != np.arange(18)[:, None]).all()
    assert (near // 6 == np.arange(18)[:, None] // 6).all()
    assert (apart < 1e-5).all()


def test_where_there_are_too_few_the_row_stands_in_at_an_infinite_distance():
    near, apart = neighbours(np.array([[0.0], [1], [3]], dtype=np.float32), 4, lists=9, probes=1)
    assert near.tolist() == [[1, 2, 0, 0], [0, 2, 1, 1], [1, 0, 2, 2]]
    assert apart.tolist() == [
        [1, 9, np.inf, np.inf], [1, 4, np.inf, np.inf], [4, 9, np.inf, np.inf],
    ]  # fmt: skip


def test_points_that_are_not_finite_are_refused():
    points = drawn(7, 3)
    points[4, 1] = np.inf
    with pytest.raises(ValueError, match="neighbours: point 4 is not finite"):
        neighbours(points, 2, lists=9, probes=1)
