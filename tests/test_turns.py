"""Rows in turns: every prefix of the order gives each cluster its even quota."""

import inspect

import numpy as np
import pytest

from xmas.selection.rules.turns import even_quotas, in_turns, turns_of_clusters

quotas_of = inspect.unwrap(even_quotas)  # without the type hook, for thousands of calls


@pytest.mark.parametrize(
    ("sizes", "budget", "quotas"),
    [
        ([10, 2, 1], 9, [6, 2, 1]),  # 9/3 but 1, 8/2 but 2, the rest
        ([5, 5, 5], 7, [2, 2, 3]),  # of equal ones the last gets what does not divide
        ([5, 5, 5], 8, [2, 3, 3]),
        ([3, 3], 0, [0, 0]),
        ([3, 3], 1, [0, 1]),
        ([7, 1, 7, 4], 19, [7, 1, 7, 4]),
        ([7, 1, 7, 4], 15, [5, 1, 5, 4]),
        ([7, 1, 7, 4], 16, [5, 1, 6, 4]),
        ([0, 4], 3, [0, 3]),
    ],
)
def test_quotas_by_hand(sizes, budget, quotas):
    assert even_quotas(np.array(sizes), budget).tolist() == quotas


def test_a_budget_beyond_the_clusters_is_refused():
    with pytest.raises(ValueError, match="budget 9 exceeds the 3 rows of 2 clusters"):
        even_quotas(np.array([1, 2]), 9)


def released(members: list[list[int]], budget: int) -> list[list[int]]:
    """What the released sampler takes of clusters whose rows stand best first.

    Written after `cluster_data_selection.py`: clusters from the smallest up, the wanted number
    shared by those that remain; its dropping of clusters of one or two rows is left out.
    """
    taken: list[list[int]] = [[] for _ in members]
    waiting = sorted(range(len(members)), key=lambda cluster: len(members[cluster]))
    while waiting:
        quota = budget // len(waiting)
        cluster = waiting.pop(0)
        taken[cluster] = members[cluster][:quota]
        budget -= len(taken[cluster])
    return taken


def water_level(sizes: list[int], budget: int) -> list[int]:
    """The same in closed form: all are filled to a level, the last of the larger get one more."""
    level = max(at for at in range(max(sizes) + 1) if sum(min(s, at) for s in sizes) <= budget)
    quotas = [min(size, level) for size in sizes]
    over = budget - sum(quotas)
    visited = sorted(range(len(sizes)), key=lambda cluster: sizes[cluster])
    for cluster in visited[len(visited) - over :] if over else []:
        quotas[cluster] += 1
    return quotas


def clusters(seed: int, cases: int):
    """Labels of random pools: singletons, ties, sizes prime and not, labels that leave gaps."""
    rng = np.random.default_rng(seed)
    for case in range(cases):
        count = int(rng.integers(1, 9))
        sizes = rng.choice([1, 1, 2, 3, 3, 5, 7, 11, 13] if case % 2 else [1, 4, 4, 9], size=count)
        names = np.sort(rng.choice(50, size=count, replace=False))
        yield rng.permutation(np.repeat(names, sizes)), rng


def test_every_prefix_gives_the_even_quotas():
    budgets = 0
    for labels, rng in clusters(seed=5, cases=2500):
        order = in_turns(labels, rng.permutation(len(labels)))
        assert sorted(order) == list(range(len(labels)))
        names, sizes = np.unique(labels, return_counts=True)
        taken = np.cumsum(labels[order][:, None] == names[None], axis=0)
        quotas = [quotas_of(sizes, budget) for budget in range(1, len(labels) + 1)]
        assert (taken == quotas).all()
        budgets += len(quotas)
    assert budgets > 40_000


def test_quotas_are_the_released_rule_and_the_water_level():
    for labels, rng in clusters(seed=7, cases=300):
        names, sizes = np.unique(labels, return_counts=True)
        preferred = rng.permutation(len(labels))
        order = in_turns(labels, preferred)
        members = [[int(row) for row in preferred if labels[row] == name] for name in names]
        for budget in range(len(labels) + 1):
            taken = released(members, budget)
            quotas = quotas_of(sizes, budget).tolist()
            assert quotas == [len(rows) for rows in taken]
            assert quotas == water_level(sizes.tolist(), budget)
            assert set(order[:budget]) == {row for rows in taken for row in rows}


def test_the_preferred_order_is_kept_within_a_cluster():
    for labels, rng in clusters(seed=11, cases=200):
        preferred = rng.permutation(len(labels))
        order = in_turns(labels, preferred)
        for name in np.unique(labels):
            kept = order[labels[order] == name]
            assert (kept == preferred[labels[preferred] == name]).all()


def test_turns_by_hand():
    labels = np.array([4, 4, 9, 9, 9, 2])  # rows 0 to 5
    preferred = np.array([5, 1, 4, 0, 2, 3])
    # One row of each: the largest first (9: row 4), then 4 (row 1), then 2 (row 5); and so on.
    assert in_turns(labels, preferred).tolist() == [4, 1, 5, 2, 0, 3]


def test_of_equal_clusters_the_higher_label_comes_first():
    assert in_turns(np.array([0, 1, 2]), np.array([0, 1, 2])).tolist() == [2, 1, 0]


def test_small_clusters_and_rows_in_none_wait_by_hand():
    labels = np.array([4, 4, -1, 9, 9, 9, 2, -1])
    preferred = np.array([7, 6, 1, 5, 0, 3, 4, 2])
    plain = [5, 1, 6, 3, 0, 4, 7, 2]
    assert turns_of_clusters(labels, preferred).tolist() == plain
    assert turns_of_clusters(labels, preferred, smallest=2).tolist() == [5, 1, 3, 0, 4, 6, 7, 2]
    assert turns_of_clusters(labels, preferred, smallest=4).tolist() == [6, 1, 5, 0, 3, 4, 7, 2]


def test_without_small_clusters_the_quotas_are_those_of_the_others():
    for labels, rng in clusters(seed=13, cases=300):
        labels = np.where(rng.random(len(labels)) < 0.1, -1, labels)
        preferred = rng.permutation(len(labels))
        order = turns_of_clusters(labels, preferred, smallest=3)
        assert sorted(order) == list(range(len(labels)))
        names, sizes = np.unique(labels[labels >= 0], return_counts=True)
        large = np.isin(labels, names[sizes >= 3])
        first = order[: large.sum()]
        assert large[first].all()
        rows = np.flatnonzero(large)
        place = np.cumsum(large) - 1
        wanted = in_turns(labels[rows], place[preferred[large[preferred]]])
        assert (rows[wanted] == first).all()
        last = order[len(order) - (labels < 0).sum() :]
        assert (labels[last] == -1).all()
