"""k-DPP: exact odds, also where determinants leave the range of floats."""

import inspect
import itertools
from collections import Counter
from math import lgamma, log

import numpy as np
import pytest

from xmas.selection.rules.kdpp import KDpp, log_elementary

sample_of = inspect.unwrap(KDpp.sample)  # without the type hook, for thousands of calls


def kernel(count: int, rank: int, seed: int = 0) -> np.ndarray:
    roots = np.random.default_rng(seed).standard_normal((count, rank))
    return roots @ roots.T


def odds(held: np.ndarray, k: int) -> dict[tuple[int, ...], float]:
    """The probability of every set, by its determinant."""
    sets = list(itertools.combinations(range(len(held)), k))
    weights = np.array([np.linalg.det(held[np.ix_(each, each)]) for each in sets])
    return dict(zip(sets, weights / weights.sum(), strict=True))


def chi_square(counts: Counter, expected: dict[tuple[int, ...], float]) -> float:
    total = sum(counts.values())
    assert set(counts) <= set(expected)
    return sum((counts[each] - total * p) ** 2 / (total * p) for each, p in expected.items())


def test_sets_are_drawn_as_often_as_their_determinants_say():
    held = kernel(6, 4) + 0.3 * np.eye(6)
    expected = odds(held, 3)
    assert len(expected) == 20
    assert max(expected.values()) > 30 * min(expected.values())
    process, rng = KDpp(held, 3), np.random.default_rng(0)
    counts = Counter(tuple(sample_of(process, rng).tolist()) for _ in range(50_000))
    # 19 degrees of freedom: beyond 43.8 once in a thousand seeds.
    assert chi_square(counts, expected) < 43.8


def test_that_test_can_fail():
    expected = odds(kernel(6, 4) + 0.3 * np.eye(6), 3)
    process, rng = KDpp(kernel(6, 4) + 0.6 * np.eye(6), 3), np.random.default_rng(0)
    counts = Counter(tuple(sample_of(process, rng).tolist()) for _ in range(5000))
    assert chi_square(counts, expected) > 43.8


@pytest.mark.parametrize("scale", [1e-200, 1e200], ids=str)
def test_odds_do_not_depend_on_the_kernel_s_scale(scale):
    held = kernel(5, 5, seed=1)
    one, other = KDpp(held, 2), KDpp(held * scale, 2)
    rngs = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(50):
        assert one.sample(rngs[0]).tolist() == other.sample(rngs[1]).tolist()


def test_elementary_polynomials_by_hand():
    table = np.exp(log_elementary(np.log([2.0, 3.0, 5.0]), 3))
    assert table == pytest.approx(
        np.array([[1, 1, 1, 1], [0, 2, 5, 10], [0, 0, 6, 31], [0, 0, 0, 30]])
    )


def test_elementary_polynomials_beyond_the_range_of_floats():
    """Of n equal values v the polynomial of order l is (n over l) v^l: here near 1e1500."""
    count, order, value = 700, 350, 1e4
    found = log_elementary(np.full(count, log(value)), order)[order, count]
    wanted = lgamma(count + 1) - 2 * lgamma(order + 1) + order * log(value)
    assert wanted > 3000  # exp(710) is the last float
    assert found == pytest.approx(wanted, rel=1e-12)


def test_as_many_items_as_there_are_is_all_of_them():
    assert KDpp(kernel(7, 7), 7).sample(np.random.default_rng(0)).tolist() == list(range(7))


def test_no_items_is_none():
    assert KDpp(kernel(7, 7), 0).sample(np.random.default_rng(0)).tolist() == []


def test_items_are_distinct_and_ascending():
    process, rng = KDpp(kernel(53, 60), 29), np.random.default_rng(0)
    for _ in range(20):
        drawn = process.sample(rng).tolist()
        assert drawn == sorted(set(drawn))
        assert len(drawn) == 29


def test_copies_are_never_drawn_together():
    held = np.eye(5)
    held[0, 1] = held[1, 0] = 1.0
    process, rng = KDpp(held, 4), np.random.default_rng(0)
    drawn = {tuple(process.sample(rng).tolist()) for _ in range(40)}
    assert drawn == {(0, 2, 3, 4), (1, 2, 3, 4)}


@pytest.mark.parametrize("k", [-1, 4])
def test_more_items_than_the_rank_are_refused(k):
    with pytest.raises(ValueError, match=f"rank 3 over 6 items has no sets of {k}"):
        KDpp(kernel(6, 3), k)
