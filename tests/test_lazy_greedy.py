"""Greedy choices: by hand, and against the plain greedy rule with all distances in float64."""

import numpy as np
import pytest

from xmas.selection.rules.lazy_greedy import farthest_points, projected, quality_and_diversity


def plain_farthest(points: np.ndarray, count: int) -> list[int]:
    """One distance to every chosen point, nothing left out."""
    apart = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=2))
    order = [int(np.argmax(np.linalg.norm(points, axis=1)))]
    while len(order) < count:
        least = apart[:, order].min(axis=1)
        least[order] = -1
        order.append(int(np.argmax(least)))
    return order


def plain_greedy(quality: np.ndarray, points: np.ndarray, count: int) -> list[int]:
    alike = points @ points.T
    order: list[int] = []
    while len(order) < count:
        gains = quality + 1 - np.maximum(alike[:, order].max(axis=1, initial=0), 0)
        gains[order] = -np.inf
        order.append(int(np.argmax(gains)))
    return order


def test_farthest_points_by_hand():
    """On a line at 0, 1, 4, 9 and 11: from 11 the farthest is 0; then 4 is 4 from 0, 9 is 2 from
    11; then 9 (2) before 1 (1).
    """
    points = np.array([[0.0], [1], [4], [9], [11]])
    assert farthest_points(points, 5).tolist() == [4, 0, 2, 3, 1]
    assert farthest_points(points, 2).tolist() == [4, 0]
    assert farthest_points(points, 0).tolist() == []


def test_equal_distances_go_to_the_lower_row():
    points = np.array([[0.0, 0], [2, 0], [0, 2], [0, -2], [-2, 0]])
    assert farthest_points(points, 5).tolist() == [1, 4, 2, 3, 0]


def test_quality_and_diversity_by_hand():
    """Rows 0 and 1 point east, 2 north, 3 west; qualities 1, .75, .25, 0. First row 0 (2.0). Then
    .75 + 0, .25 + 1 and 0 + 1: row 2. Then .75 + 0 and 0 + 1 (west is no farther than north): 3.
    """
    east, north, west = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
    points = np.array([east, east, north, west])
    order, gains = quality_and_diversity(np.array([1, 0.75, 0.25, 0]), points, 4)
    assert order.tolist() == [0, 2, 3, 1]
    assert gains.tolist() == [2.0, 0.75, 1.25, 1.0]


def test_the_rest_has_the_gain_after_the_last_choice():
    points = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    order, gains = quality_and_diversity(np.array([0.5, 0.25, 0]), points, 2)
    assert order.tolist() == [0, 2]
    np.testing.assert_allclose(gains, [1.5, 0.25 + 1 - 0.8, 1.0], rtol=1e-6)


@pytest.mark.parametrize("front", [1, 4, 13, None])
@pytest.mark.parametrize("grouped", [False, True])
def test_lazy_is_plain_greedy(front, grouped):
    """Also where points are in tight groups, and where many gains are equal."""
    rng = np.random.default_rng(3)
    points = rng.normal(size=(211, 7))
    if grouped:
        points = rng.normal(size=(5, 7))[rng.integers(0, 5, 211)] + 0.1 * points
    assert farthest_points(points, 101, front=front).tolist() == plain_farthest(points, 101)
    units = points / np.linalg.norm(points, axis=1, keepdims=True)
    quality = rng.integers(0, 5, 211) / 4
    order, _ = quality_and_diversity(quality, units, 211, front=front)
    assert order.tolist() == plain_greedy(quality, units, 211)
    assert quality_and_diversity(quality, units, 53, front=front)[0].tolist() == order[:53].tolist()


def test_what_cannot_be_chosen_is_refused():
    points = np.ones((3, 2))
    with pytest.raises(ValueError, match="4 of 3 points cannot be chosen"):
        farthest_points(points, 4)
    points[1, 0] = np.nan
    with pytest.raises(ValueError, match=r"point 1 is not finite: \[nan  1.\]"):
        quality_and_diversity(np.ones(3), points, 1)


def test_a_projection_keeps_distances_in_expectation():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(101, 1009))
    small = projected(points, 256, np.random.default_rng(1))
    assert (small.shape, small.dtype) == ((101, 256), np.float32)
    pairs = np.triu_indices(101, 1)
    ratio = np.linalg.norm(small[pairs[0]] - small[pairs[1]], axis=1) / np.linalg.norm(
        points[pairs[0]] - points[pairs[1]], axis=1
    )
    assert abs(ratio.mean() - 1) < 0.01  # the deviation of one is 1 / sqrt(2 x 256) = 0.044
    assert ratio.std() < 0.06
    assert np.array_equal(projected(points[:, :5], 256, rng), points[:, :5].astype(np.float32))
