"""DICS: three regimes of the budget by hand, and against a plain rule that follows the paper."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
from given import Given, given
from test_selectors import pool_of
from toy import Toy

from xmas.data.pool import Pool
from xmas.features.losses.answers import Answers
from xmas.features.losses.consistency import Consistency
from xmas.selection.methods.dics import Dics, Split, split
from xmas.store import Stage, Store, content

NAN = float("nan")


@dataclasses.dataclass(frozen=True)
class GivenConsistency(Consistency):
    """VIC and RIC out of a file."""

    kind: ClassVar[str] = "given_consistency"

    file: str = content("")

    def inputs(self) -> list[Stage]:
        return []

    def compute(self, store: Store, out) -> None:
        np.save(out / "values.npy", np.load(self.file))


@pytest.fixture
def dics(toy: Toy, tmp_path):
    """A function of VIC, RIC and places on a line that gives a selector."""

    def make(vic: list[float], ric: list[float], places: list[float], **options) -> Dics:
        np.save(tmp_path / "consistency.npy", np.array([vic, ric], dtype=np.float32).T)
        losses = GivenConsistency(toy.proxy, file=str(tmp_path / "consistency.npy"))
        features = given(tmp_path, np.array(places, dtype=np.float32)[:, None])
        return Dics(features, losses, **options)

    return make


def select(selector: Dics, pool: Pool, budget: int, store: Store) -> list[int]:
    return selector.select(pool, budget, np.random.default_rng(0), store).tolist()


VIC = [1.5, 3.0, 1.2, 9.0, 2.0, 1.1]
RIC = [2.0, 1.4, 5.0, 1.0, 1.9, 0.5]  # the smaller: 1.5, 1.4, 1.2, 1.0, 1.9, 0.5
PLACES = [2.0, 3.0, 9.0, 4.0, 1.0, 8.0]  # best first: rows 4 0 1 2 3 5, at 1 2 3 9 4 8


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (1, [0]),  # of the two best, 4 and 0, the farther from the origin
        (2, [2, 4]),  # of 4 0 1 2 first 2, at 9; then 4, at 1, eight away
        (3, [4, 0, 1]),  # half: the best
        (4, [4, 0, 2, 1]),  # the best two, then of 1 2 3 5, at 3 9 4 8: 9, then 3
        (5, [4, 0, 1, 2, 5]),  # the best four, then of 3 5, at 4 8: 8
        (6, [4, 0, 1, 2, 3, 5]),  # all
    ],
)
def test_budgets_around_a_half_by_hand(dics, toy, tmp_path, budget, expected):
    pool = pool_of(tmp_path, [True] * 6)
    assert select(dics(VIC, RIC, PLACES), pool, budget, toy.store) == expected


@pytest.mark.parametrize(("rows", "budget"), [(7, 3), (7, 4), (8, 4), (11, 1), (11, 10), (5, 0)])
def test_a_split_gives_the_budget(rows, budget):
    parts = split(rows, budget)
    assert parts.best + parts.spread == budget
    assert parts.spread <= parts.offered <= rows - parts.best
    assert parts.offered == 2 * parts.spread  # of two rows offered one is chosen
    assert (parts == Split(budget, 0, 0)) == (2 * budget in (0, rows))


@pytest.mark.parametrize(("parts", "best"), [("both", [4, 0, 1]), ("ric", [2, 0, 4])])
def test_one_part_alone(dics, toy, tmp_path, parts, best):
    pool = pool_of(tmp_path, [True] * 6)
    assert select(dics(VIC, RIC, PLACES, parts=parts), pool, 3, toy.store) == best


def test_text_only_rows_have_the_score_one(dics, toy, tmp_path):
    """Only where they take part; a row without a score comes last."""
    pool = pool_of(tmp_path, [True, False, True, True, False, True])
    vic = [1.5, NAN, 0.9, NAN, NAN, 1.2]
    chosen = select(dics(vic, vic, PLACES), pool, 2, toy.store)
    assert chosen == [0, 5]
    taking_part = dics(vic, vic, PLACES, text_rows=True)
    assert select(taking_part, pool, 3, toy.store) == [0, 5, 1]
    assert set(select(taking_part, pool, 5, toy.store)) == {0, 5, 1, 4, 2}
    with pytest.raises(ValueError, match="budget of 5 rows exceeds the 4 that take part, of 6"):
        select(dics(vic, vic, PLACES), pool, 5, toy.store)


def test_vic_alone_is_from_the_answers_that_necessity_uses(toy, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class GivenAnswers(Answers):
        kind: ClassVar[str] = "given_answers"

        def column(self, store: Store, name: str) -> np.ndarray:
            return np.array([2.0, 1, 3]) if name == "blind_loss" else np.array([1.0, 0.9, 0])

    features = given(tmp_path, np.zeros((3, 1)))
    selector = Dics(features, None, GivenAnswers(toy.proxy), parts="vic")
    np.testing.assert_allclose(selector.scores(toy.store), np.exp([1, 0.1, 3]))
    losses = GivenConsistency(toy.proxy)
    assert dataclasses.replace(selector, consistency=losses) == selector  # not a part of it
    with pytest.raises(ValueError, match=r"parts=ric needs selector\.consistency"):
        dataclasses.replace(selector, parts="ric")
    with pytest.raises(ValueError, match="parts='all': expected one of both, vic, ric"):
        dataclasses.replace(selector, parts="all")


def test_the_rule_of_the_paper_on_many_rows(dics, toy, tmp_path):
    rng = np.random.default_rng(2)
    vic, ric = rng.uniform(0.5, 2, (2, 101)).astype(np.float32)
    points = rng.normal(size=(101, 5)).astype(np.float32)
    selector = dics(vic.tolist(), ric.tolist(), [0.0])
    features = Given(str(tmp_path / "many.npy"))
    np.save(tmp_path / "many.npy", points)
    selector = dataclasses.replace(selector, features=features)
    pool = pool_of(tmp_path, [True] * 101)
    for budget in (23, 50, 51, 80):
        order = np.argsort(-np.minimum(vic, ric))
        best = [] if 2 * budget < 101 else order[: 2 * budget - 101].tolist()
        offered = order[: 2 * budget] if 2 * budget < 101 else order[len(best) :]
        spread = [offered[np.linalg.norm(points[offered], axis=1).argmax()]]
        while len(best) + len(spread) < budget:
            apart = np.linalg.norm(points[offered][:, None] - points[spread], axis=2).min(axis=1)
            spread.append(offered[apart.argmax()])
        assert select(selector, pool, budget, toy.store) == best + [int(row) for row in spread]


def test_a_projection_changes_what_is_far(dics, toy, tmp_path):
    selector = dataclasses.replace(dics(VIC, RIC, PLACES), project=2)
    pool = pool_of(tmp_path, [True] * 6)
    assert select(selector, pool, 2, toy.store) == [2, 4]  # one dimension already
