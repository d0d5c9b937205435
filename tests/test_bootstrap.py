"""The bootstrap: its moments by hand, and how often its intervals hold the truth."""

import numpy as np
import pytest

from xmas.evaluation.outcomes import Kept
from xmas.results.statistics.bootstrap import Interval, holm, over_questions, over_seeds, p_value


def kept(gained, counted=None, weights=(100.0,), pictures=None):
    gained = np.array(gained, np.float32)
    gained = gained[:, None] if gained.ndim == 1 else gained
    counted = np.ones_like(gained) if counted is None else np.array(counted, np.float32)
    shown = None if pictures is None else np.array(pictures)
    return Kept("same", gained, counted, np.array(weights), pictures=shown)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_draws_spread_as_the_standard_error_of_a_mean():
    rights = np.arange(331) % 3 == 0  # 111 of 331
    drawn = over_questions([kept(rights)], 20_000, rng())[:, 0]
    share = rights.mean()
    assert drawn.mean() == pytest.approx(100 * share, abs=0.1)
    assert drawn.std() == pytest.approx(100 * (share * (1 - share) / 332) ** 0.5, rel=0.03)


def test_all_runs_answer_the_same_drawn_questions():
    rights = np.arange(97) % 2
    one, same, other = over_questions([kept(r) for r in (rights, rights, 1 - rights)], 50, rng()).T
    assert np.array_equal(one, same)
    assert one + other == pytest.approx(100)  # what is easy for one is hard for the other
    assert np.ptp(one) > 1


def test_a_ratio_is_worked_out_again_from_the_drawn_sums():
    # F1 of one category: every draw must be 2 hits / (claims + there) of one and the same draw.
    gained = [[2, 0], [0, 0], [2, 0], [0, 2], [0, 0]]
    counted = [[2, 0], [1, 0], [2, 0], [0, 2], [0, 0]]
    run = kept(gained, counted, weights=(50.0, 50.0))
    drawn = over_questions([run], 300, rng(3))[:, 0]
    weight = rng(3).standard_exponential((300, 5), dtype=np.float32)
    hits = 2 * (weight[:, 0] + weight[:, 2])
    assert drawn == pytest.approx(50 * hits / (hits + weight[:, 1]) + 50, rel=1e-5)


def test_a_term_that_counts_nothing_is_zero():
    drawn = over_questions([kept([[0.0], [0.0]], [[0.0], [0.0]])], 7, rng())
    assert np.array_equal(drawn, np.zeros((7, 1)))


def test_groups_of_questions_spread_as_the_questions_do():
    values = rng(1).random(2503)
    alone = over_questions([kept(values)], 4000, rng())  # 2048 groups
    single = over_questions([kept(values)], 4000, rng(), groups=10_000)
    assert alone.std() == pytest.approx(single.std(), rel=0.08)
    assert single.std() == pytest.approx(100 * values.std() / 2503**0.5, rel=0.05)


def test_questions_about_one_picture_are_drawn_together():
    """31 pictures, 13 of them understood, 5 questions each: 155 answers that tell as much as 31.

    The share has a variance of s (1 - s) / (31 + 1) under Dirichlet weights of 31 pictures, and of
    s (1 - s) / (155 + 1) were the questions drawn alone.
    """
    understood = np.arange(31) < 13
    rights, shown = np.repeat(understood, 5), np.repeat(np.arange(31), 5)
    share = 13 / 31
    together = over_questions([kept(rights, pictures=shown)], 20_000, rng())
    alone = over_questions([kept(rights)], 20_000, rng())
    assert together.std() == pytest.approx(100 * (share * (1 - share) / 32) ** 0.5, rel=0.03)
    assert alone.std() == pytest.approx(100 * (share * (1 - share) / 156) ** 0.5, rel=0.03)


def test_a_picture_has_one_weight_whatever_the_order_of_its_questions():
    """Right, wrong, right; pictures 1, 0, 1, 2: drawn again by hand from the same weights."""
    run = kept([1, 0, 1, 0], pictures=[1, 0, 1, 2])
    drawn = over_questions([run, kept([0, 1, 0, 0])], 300, rng(3))  # the second of an earlier file
    weight = rng(3).standard_exponential((300, 3), dtype=np.float32)
    total = weight[:, 0] + 2 * weight[:, 1] + weight[:, 2]
    assert drawn[:, 0] == pytest.approx(200 * weight[:, 1] / total, rel=1e-5)
    assert drawn[:, 1] == pytest.approx(100 * weight[:, 0] / total, rel=1e-5)


def test_draws_of_seeds_have_the_standard_error_and_the_tails_of_so_few():
    scores = np.array([50.0, 53.0, 59.0])  # mean 54, sample sd 4.583, standard error 2.646
    found = Interval.of(over_seeds(scores, 200_000, rng()))
    half = 4.303 * 2.646  # Student's t of 2 degrees of freedom at 97.5 %
    assert (found.low, found.high) == pytest.approx((-half, half), abs=0.3)
    assert np.array_equal(over_seeds(scores[:1], 5, rng()), np.zeros(5))


def test_a_draw_of_seeds_is_the_same_on_every_benchmark():
    scores = np.array([50.0, 53.0, 59.0])
    one, other = (over_seeds(each, 40, rng(2)) for each in (scores, 2 * scores + 7))
    assert other == pytest.approx(2 * one)


def test_an_interval_is_the_middle_95_per_cent():
    found = Interval.of(np.linspace(0, 1000, 1001))
    assert (found.low, found.high) == pytest.approx((25, 975))


def test_p_counts_draws_on_the_other_side_and_is_never_zero():
    assert p_value(np.array([1.0, 2, 3, 4, 5, 6, 7, 8, -1])) == pytest.approx(2 * 2 / 10)
    assert p_value(np.arange(1.0, 100)) == pytest.approx(2 / 100)
    assert p_value(np.zeros(9)) == 1


def test_holm_multiplies_by_what_is_left_and_never_falls():
    # 0.01 * 4; 0.02 * 3; 0.03 * 2 = 0.06; 0.9.
    assert holm({7: 0.9, 3: 0.02, 5: 0.01, 1: 0.03}) == pytest.approx(
        {5: 0.04, 3: 0.06, 1: 0.06, 7: 0.9}
    )
    assert holm({}) == {}


def covered(seeds, questions, *, trainings_vary, spread=0.02, draws=400, worlds=200):
    """How often the interval of a difference holds the true one, over simulated experiments.

    Two methods, `seeds` trainings of each, all on the same questions: a question is easy or hard
    for everyone, a training good or bad with a standard deviation of `spread`, and both together
    leave the rest to chance.
    """
    world = rng(17)
    held = 0
    for _ in range(worlds):
        hard = world.normal(0, 0.15, questions)
        runs = []
        for skill in (0.55, 0.60):
            good = world.normal(skill, spread, seeds)
            runs += [
                kept((world.random(questions) < np.clip(one + hard, 0, 1)).astype(float))
                for one in good
            ]
        drawn = over_questions(runs, draws, world)
        scores = np.array([100 * run.gained.mean(dtype=float) for run in runs])
        low, high = (drawn[:, part].mean(axis=1) for part in (slice(seeds), slice(seeds, None)))
        if trainings_vary:
            low = low + over_seeds(scores[:seeds], draws, world)
            high = high + over_seeds(scores[seeds:], draws, world)
        found = Interval.of(high - low)
        held += found.low <= 5 <= found.high
    return held / worlds


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_hold_the_truth_as_often_as_they_say_or_more(seeds):
    assert covered(seeds, 500, trainings_vary=True) >= 0.93


def test_not_much_more_often_where_trainings_differ_more_than_chance_answers():
    assert covered(8, 701, trainings_vary=True, spread=0.03) <= 0.99


def test_an_interval_over_questions_alone_holds_it_too_rarely():
    assert covered(3, 701, trainings_vary=False, spread=0.03) < 0.85
