"""Guarded cover: every switch by hand, and the whole order against the rules one by one."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import pytest
from choices import FILES
from given import given
from toy import Toy

from xmas.cli.config import build
from xmas.data.pool import Pool
from xmas.estimate.assumed import Assumed
from xmas.estimate.per_stage.clusters import of_guarded_cover
from xmas.estimate.work import Context
from xmas.features.clip.clip_rows import ClipRows
from xmas.selection.budget import cut
from xmas.selection.methods.clip_score import ClipScore
from xmas.selection.methods.column import Column
from xmas.selection.methods.guarded_cover import GuardedCover
from xmas.selection.methods.necessity import Necessity
from xmas.selection.protocol import Ranked
from xmas.selection.ranking import Ranking
from xmas.store import Store, key
from xmas.store.planned_stages import planned_stages

NAN = float("nan")
# Rows 0 to 7 are of source a, 8 to 12 of b, 13 has no image. Directions in degrees:
ANGLES = [0, 12, 90, 176, 100, 45, 200, 272, 0, 40, 90, 300, 20]
NEED = [9, 8, 7, 6, 5, 2, 1, 4, 9, 8, 7, 1, 5]
FIT = [5, 6, 7, 8, 9, 4, 2, 1, 5, 6, 7, 4, 1]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def ranks(tmp_path, store):
    """A function of sources ("" of a row without an image), scores and features that gives what a
    selector with these settings makes of such a pool.
    """

    def rank(
        sources: Sequence[str], fit: Sequence, need: Sequence, points: object, **settings
    ) -> Ranked:
        records = []
        for source, fits, needs in zip(sources, fit, need, strict=True):
            talk = [{"from": "human", "value": "<image>?" if source else "?"}]
            records.append({
                "source": source or "a", "fit": fits, "need": needs,
                "conversations": [*talk, {"from": "gpt", "value": "!"}],
                **({"image": "a.png"} if source else {}),
            })  # fmt: skip
        file = tmp_path / "pool.json"
        file.write_text(json.dumps(records))
        fit_column, need_column = Column("fit", missing="last"), Column("need", missing="last")
        seed = settings.pop("seed", 0)
        selector = GuardedCover(given(tmp_path, points), fit_column, need_column, **settings)
        pool = Pool(str(file), str(tmp_path))
        return selector.rank(pool, np.random.default_rng(seed), store)

    return rank


@pytest.fixture
def by_hand(ranks):
    """What a selector with these settings makes of the rows above."""
    angles = np.radians(ANGLES)
    points = [*np.stack([np.cos(angles), np.sin(angles)], axis=1).tolist(), [NAN, NAN]]
    sources = [*"aaaaaaaabbbbb", ""]

    def rank(**settings) -> Ranked:
        shares = {"guard": 0.25, "necessity": 0.25}
        return ranks(sources, [*FIT, None], [*NEED, None], points, **(shares | settings))

    return rank


def within(ranked: Ranked, rows: range) -> list[int]:
    return [row for row in ranked.order.tolist() if row in rows]


A, B = range(8), range(8, 13)


def test_every_part_by_hand(by_hand):
    """Of a rows 5 and 6 have the lowest need, 6 and 7 the lowest fit. Of the others, at 0, 12, 90,
    100 and 176 degrees, the last is farthest from their mean; then 0 is farthest from it, 90 from
    both, and 12 is 12 degrees away, 100 only 10. Of b 11 has the lowest need, 12 the lowest fit; of
    0, 40 and 90 degrees the last is farthest from the mean.
    Places: a 1/16, 3/16, ... 15/16; b 1/10, 3/10, ... 9/10.
    """
    ranked = by_hand()
    assert within(ranked, A) == [3, 0, 2, 1, 4, 5, 6, 7]
    assert within(ranked, B) == [10, 8, 9, 11, 12]
    assert ranked.order.tolist() == [3, 10, 0, 8, 2, 1, 9, 4, 5, 11, 6, 12, 7, 13]
    assert ranked.scores[[3, 10, 0, 7]].tolist() == [-1 / 16, -1 / 10, -3 / 16, -15 / 16]
    assert np.isnan(ranked.scores[13])
    assert ranked.clusters.tolist() == [0] * 8 + [1] * 5 + [0]


def test_without_the_guard(by_hand):
    """Row 7, at 272 degrees, is farthest from the mean, then 90; row 0 is 88 degrees from 272, row
    3 is 86 from 90.
    """
    ranked = by_hand(guard=None)
    assert within(ranked, A) == [7, 2, 0, 3, 1, 4, 5, 6]
    assert within(ranked, B)[-1] == 11


def test_without_necessity(by_hand):
    """Row 5, at 45 degrees, is after 90 the farthest from all: 45 degrees."""
    ranked = by_hand(necessity=None)
    assert within(ranked, A) == [3, 0, 2, 5, 1, 4, 6, 7]
    assert within(ranked, B)[-1] == 12


def test_without_coverage_the_first_part_is_drawn(by_hand):
    orders = [by_hand(coverage=False, seed=seed) for seed in range(4)]
    assert {tuple(within(ranked, A)[5:]) for ranked in orders} == {(5, 6, 7)}
    assert {tuple(within(ranked, B)[3:]) for ranked in orders} == {(11, 12)}
    assert len({tuple(ranked.order.tolist()) for ranked in orders}) == 4
    assert {tuple(sorted(within(ranked, A)[:5])) for ranked in orders} == {(0, 1, 2, 3, 4)}


def test_without_the_mix_all_rows_are_of_one_source(by_hand):
    """A quarter of 13 rows is 3: need is lowest in 6, 11 and 5, fit in 7, 12 and 6."""
    ranked = by_hand(mix=False)
    assert ranked.order.tolist()[8:] == [5, 11, 6, 7, 12, 13]
    assert set(ranked.order.tolist()[:8]) == {0, 1, 2, 3, 4, 8, 9, 10}
    assert set(ranked.clusters.tolist()) == {-1}


def test_a_row_without_a_score_is_the_lowest_and_of_equal_ones_the_last(ranks):
    points = np.eye(5)
    nothing = [None, 3, 3, 3, 3]
    sources = "aaaaa"
    ranked = ranks(sources, nothing, [1] * 5, points, guard=0.4, necessity=None)
    assert ranked.order.tolist()[3:] == [4, 0]


def webster(sizes: list[int], seats: int) -> list[int]:
    """Seats one by one, to the largest size / (2 seats + 1), of equal ones to the larger."""
    awarded = [0] * len(sizes)
    for _ in range(seats):
        best = max(range(len(sizes)), key=lambda at: (sizes[at] / (2 * awarded[at] + 1), sizes[at]))
        awarded[best] += 1
    return awarded


def farthest(points: np.ndarray) -> list[int]:
    """Each position the one farthest from the nearest chosen one, by all distances anew."""
    order = [int(np.argmax(np.linalg.norm(points - points.mean(axis=0), axis=1)))]
    while len(order) < len(points):
        gaps = np.linalg.norm(points[:, None] - points[order][None], axis=2).min(axis=1)
        gaps[order] = -1
        order.append(int(np.argmax(gaps)))
    return order


def test_the_order_is_that_of_the_rules_one_by_one(ranks):
    rng = np.random.default_rng(7)
    sources = [*"a" * 17, *"b" * 29, *"c" * 7, *[""] * 6]  # places of 1/2 in all three
    fit, need = rng.permutation(59).tolist(), rng.permutation(59).tolist()
    points = rng.normal(size=(59, 5))
    points[53:] = NAN
    ranked = ranks(sources, fit, need, points)
    directions = points / np.linalg.norm(points, axis=1, keepdims=True)
    for name, start, size in (("a", 0, 17), ("b", 17, 29), ("c", 46, 7)):
        rows = list(range(start, start + size))
        by_fit, by_need = (sorted(rows, key=lambda row: -by[row]) for by in (fit, need))
        misfits = by_fit[len(rows) - round(0.1 * size) :]
        needless = [row for row in by_need[len(rows) - round(0.25 * size) :] if row not in misfits]
        others = [row for row in rows if row not in needless + misfits]
        spread = [others[at] for at in farthest(directions[others])]
        assert within(ranked, range(start, start + size)) == spread + needless + misfits, name
    for budget in range(1, 54):
        counts = [
            sum(row in part for row in ranked.order[:budget].tolist())
            for part in (range(17), range(17, 46), range(46, 53))
        ]
        assert counts == webster([17, 29, 7], budget)
    has_image = np.arange(59) < 53
    smaller: set[int] = set()
    for budget in (7, 29, 43, 59):
        rows = set(cut(ranked.order, budget, has_image=has_image).tolist())
        assert smaller < rows
        smaller = rows


def test_exact_copies_come_after_all_that_is_different(ranks):
    """Of 13 rows and a copy of each, the first 13 are one of every pair."""
    points = np.random.default_rng(3).normal(size=(13, 5))
    off = {"guard": None, "necessity": None}
    ranked = ranks("a" * 26, [1] * 26, [1] * 26, [*points, *points], **off)
    assert sorted(ranked.order[:13] % 13) == list(range(13))


def test_a_projection_is_drawn_from_the_seed(ranks):
    points = np.random.default_rng(3).normal(size=(31, 11))
    orders = [
        ranks("a" * 31, [1] * 31, [1] * 31, points, project=3, seed=seed).order.tolist()
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_a_pool_without_images_is_in_random_order(ranks):
    ranked = ranks(["", "", ""], [1] * 3, [1] * 3, np.full((3, 2), NAN))
    assert sorted(ranked.order.tolist()) == [0, 1, 2]
    assert np.isnan(ranked.scores).all()


@pytest.fixture(scope="module")
def composed(compose):
    return compose("pool=files", *FILES, "selector=guarded_cover")


def test_a_part_that_is_off_reads_nothing(composed):
    everything = {"guard": None, "necessity": None, "coverage": False}
    kinds = {"clip_rows", "clip_embeddings", "answers"}
    selector, keys = build(composed.selector), set()
    for off, wanted in (
        ({}, kinds),
        ({"guard": None}, kinds),  # the features are of the same embeddings
        ({"necessity": None}, kinds - {"answers"}),
        ({"coverage": False}, kinds - {"clip_rows"}),
        (everything, set()),
    ):
        ranking = Ranking(Pool("/dev/null", "."), dataclasses.replace(selector, **off))
        assert {stage.kind for stage in planned_stages(ranking)} & kinds == wanted
        keys.add(key(ranking))
    assert len(keys) == 5


def test_it_reads_the_passes_of_other_selectors(composed):
    selector, clip = build(composed.selector), build(composed.features.clip)
    assert selector.features == ClipRows(clip, "concat", "human")
    assert selector.fit == ClipScore(clip)
    assert selector.need == Necessity(build(composed.features.start_answers))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guard": 0.0}, r"selector\.guard=0\.0 is not within 0 and 1"),
        ({"necessity": 1.0}, r"selector\.necessity=1\.0 is not within 0 and 1"),
        ({"project": 0}, r"project=0: give dimensions"),
        ({"fit": None}, r"selector\.guard=0\.1 needs selector\.fit"),
        ({"features": None}, r"selector\.coverage=True needs selector\.features"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, settings, message):
    parts = {"features": given(tmp_path, [[1.0]]), "fit": Column("fit"), "need": Column("need")}
    with pytest.raises(ValueError, match=message):
        GuardedCover(**(parts | settings))


def test_scores_that_a_pool_lacks_are_refused_beforehand(toy: Toy, tmp_path):
    selector = GuardedCover(given(tmp_path, [[1.0]]), Column("fits"), Column("needs"))
    with pytest.raises(ValueError, match="fits"):
        selector.check(toy.pool, toy.store)


def test_the_estimate_counts_its_distances(toy: Toy, toy_selector):
    """Of the toy's 34 rows with an image at most three quarters are compared with each other."""
    context = Context(toy.store, toy.proxy.hardware, Assumed(), ())
    selector = toy_selector("guarded_cover")
    points, width = 0.75 * 34, 2 * 32
    assert of_guarded_cover(selector, context) == pytest.approx(points**2 * width)
    without = dataclasses.replace(selector, coverage=False)
    assert of_guarded_cover(without, context) == 0
