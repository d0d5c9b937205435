"""Intervals of a table: what is paired, what is missing, what may be called significant."""

import numpy as np
import pytest
from scored import Shelves

from xmas.evaluation.outcomes import Outcomes
from xmas.results.leaderboard import leaderboards
from xmas.results.score_records import TableError, runs
from xmas.results.statistics.intervals import certainties
from xmas.store import Store

QUESTIONS = 400


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


@pytest.fixture
def add(tmp_path):
    return Shelves(tmp_path)


def rights(share, seed=0):
    """Which of the questions are right: the easiest `share` of them, some swapped by the seed."""
    found = np.arange(QUESTIONS) < share * QUESTIONS
    swapped = np.random.default_rng(seed).permutation(QUESTIONS)[:8]
    found[swapped] ^= True
    return found.tolist()


def put(add, selector, share, *, seeds=(0, 1, 2), benchmarks=("gqa", "pope")):
    for seed in seeds:
        for name in benchmarks:
            outcomes = rights(share, seed + 10 * len(selector))
            kept = Outcomes.mean(dict(enumerate(outcomes)))
            add(selector, name, kept.score(), seed=seed, outcomes=outcomes)


def known(store, **options):
    (comparison,) = leaderboards(runs(store))
    found = certainties(comparison, **options)
    return {row.label: one for row, one in zip(comparison.rows, found, strict=True)}


def test_a_clear_lead_is_significant_and_none_is_not(store, add):
    put(add, "full", 0.8)
    put(add, "random", 0.6)
    put(add, "xmas", 0.7)
    put(add, "length", 0.6)
    found = known(store)
    lead = found["xmas"].against
    assert lead.points == pytest.approx(12.5, abs=2)  # 70 and 60 of 80
    assert lead.interval.low > 5
    assert lead.significant
    assert not found["length"].against.significant
    assert found["length"].against.interval.low < 0 < found["length"].against.interval.high
    assert found["random"].against is None
    assert found["full"].against is None
    assert found["xmas"].arps["ARP"].low < 87.5 < found["xmas"].arps["ARP"].high


def test_p_is_adjusted_for_all_comparisons_of_the_table(store, add):
    put(add, "full", 0.8)
    put(add, "random", 0.6)
    for name, share in (("xmas", 0.62), ("el2n", 0.63), ("d2", 0.64)):
        put(add, name, share)
    against = [one.against for name, one in known(store).items() if one.against]
    assert len(against) == 3
    ordered = sorted(against, key=lambda one: one.p)
    assert ordered[0].adjusted == pytest.approx(min(1, 3 * ordered[0].p))
    assert all(one.adjusted >= one.p for one in against)


def test_rows_are_paired_by_question(store, add):
    """Trainings that fail on the same questions differ by less than their own intervals span."""
    put(add, "full", 0.8, seeds=(0,))
    put(add, "random", 0.50, seeds=(0,))
    put(add, "xmas", 0.55, seeds=(0,))
    found = known(store)
    alone = found["xmas"].relative["gqa"]
    apart = found["xmas"].against.interval
    assert apart.high - apart.low < 0.7 * (alone.high - alone.low)


def test_a_single_seed_is_never_significant(store, add):
    put(add, "full", 0.8)
    put(add, "random", 0.4)
    put(add, "xmas", 0.79, seeds=(5,))
    against = known(store)["xmas"].against
    assert against.interval.low > 30  # over questions alone
    assert against.p is None
    assert not against.significant


def test_seeds_that_differ_widen_the_interval(store, add):
    put(add, "full", 0.8, seeds=(0,))
    for seed, share in enumerate((0.5, 0.6, 0.7)):
        outcomes = [at < share * QUESTIONS for at in range(QUESTIONS)]
        for name in ("gqa", "pope"):
            add("xmas", name, 100 * share, seed=seed, outcomes=outcomes)
    found = known(store)["xmas"].scores["gqa"]
    half = 4.303 * 10 / 3**0.5  # Student's t of 2 degrees; questions add little
    assert (found.low, found.high) == pytest.approx((60 - half, 60 + half), abs=3)


def test_a_score_without_outcomes_has_no_interval_and_costs_that_of_arp(store, add):
    put(add, "full", 0.8)
    put(add, "random", 0.6)
    put(add, "xmas", 0.7, benchmarks=("gqa",))
    for seed in range(3):
        add("xmas", "pope", 70.0, seed=seed)
    found = known(store)["xmas"]
    assert list(found.scores) == ["gqa"]
    assert found.arps == {}
    assert found.against.points == pytest.approx(12, abs=3)
    assert found.against.interval is None
    assert found.against.p is None


def test_the_same_store_gives_the_same_intervals_and_another_row_changes_none(store, add):
    put(add, "full", 0.8)
    put(add, "random", 0.6)
    put(add, "xmas", 0.7)
    before = known(store)
    assert known(store) == before
    assert known(store, seed=1) != before
    put(add, "length", 0.5)
    after = known(store)["xmas"].scores["gqa"]
    held = before["xmas"].scores["gqa"]
    assert (after.low, after.high) == pytest.approx((held.low, held.high), rel=1e-5)


def test_outcomes_of_different_questions_are_refused(store, add):
    put(add, "full", 0.8, benchmarks=("gqa",))
    folder = add("random", "gqa", 100.0, outcomes=[1, 1, 1])
    with pytest.raises(TableError, match=f"gqa: outcomes of different questions: .*{folder.name}"):
        known(store)


def test_damaged_outcomes_are_named(store, add):
    folder = add("random", "gqa", 100.0, outcomes=[1, 1, 1])
    (folder / "outcomes.npz").write_bytes(b"PK torn")
    with pytest.raises(TableError, match=f"{folder.name}/outcomes.npz: not a file of outcomes"):
        known(store)


def test_questions_about_one_picture_widen_the_interval_and_are_counted(store, add):
    """Four questions a picture, all right or all wrong: half as much is known of the score."""
    outcomes = [number % 5 < 3 for number in range(20) for _ in range(4)]
    for name, pictures in (("gqa", None), ("pope", [number // 4 for number in range(80)])):
        for selector in ("full", "random"):
            add(selector, name, 60.0, outcomes=outcomes, pictures=pictures)
    found = known(store)
    assert found["random"].pictures == {"pope": (80, 20)}
    wide, narrow = (found["random"].scores[name] for name in ("pope", "gqa"))
    assert wide.high - wide.low == pytest.approx(2 * (narrow.high - narrow.low), rel=0.15)


def test_one_picture_tells_nothing_of_others(store, add):
    for selector in ("full", "random"):
        add(selector, "gqa", 60.0, outcomes=[True] * 3 + [False] * 2, pictures=[7] * 5)
    assert known(store)["random"].scores == {}
