"""The exam: its measures by hand, and that it finds what it must on a pool with planted truths."""

import csv
import dataclasses
import json
import math
from pathlib import Path

import noise_pool
import numpy as np
import pytest
from choices import EVERY_SELECTOR, SELECTORS
from toy import Toy

from xmas.cli.config import build
from xmas.cli.implied_choices import with_implied
from xmas.cli.unknown_settings import with_own_keys
from xmas.data.planted.planted_pool import PlantedPool
from xmas.data.planted.planting import KINDS, SWAPPED, Planting
from xmas.data.pool import Pool
from xmas.features.averaged import AveragedTrajectories
from xmas.features.clip.clip import ClipEmbeddings
from xmas.features.clustering.spherical import Spherical
from xmas.features.plain_vectors import PlainVectors
from xmas.features.trajectories import Trajectories
from xmas.models.hub import NeedsWeights
from xmas.models.sources import Source
from xmas.models.start_point import StartPoint
from xmas.results.exam.exam import Exam
from xmas.results.exam.marks import Mark, over_measurements, read
from xmas.results.exam.measures import (
    beyond_chance,
    copies_kept,
    correlation,
    groups_covered,
    in_common,
    mix_moved,
    nearest_alike,
)
from xmas.results.exam.sentences import sentences
from xmas.results.exam.trials import trials_of
from xmas.results.exam.variations import fits_of, is_fit, on_pool, with_fit_seed
from xmas.results.report import Report
from xmas.selection.methods.length import Length
from xmas.selection.methods.random import Random
from xmas.selection.methods.semdedup import Semdedup
from xmas.selection.protocol import Ranked
from xmas.selection.ranking import Ranking
from xmas.store import Store, key
from xmas.store.label import label
from xmas.store.planned_stages import planned_stages

NO_SHARES = dict.fromkeys(KINDS[2:], 0.0)


@dataclasses.dataclass(frozen=True)
class PrefersSwapped:
    """Rows with another row's answers first, which no honest selector knows."""

    def rank(self, pool, rng, store):
        count = len(pool.open(store))
        preferred = np.zeros(count, dtype=bool)
        stage = getattr(pool.annotations, "stage", None)
        if isinstance(stage, PlantedPool):
            preferred = stage.plan(store).kinds == SWAPPED
        order = np.lexsort((rng.permutation(count), ~preferred))
        return Ranked(order, np.full(count, np.nan), np.full(count, -1))


@dataclasses.dataclass(frozen=True)
class InOrder:
    """The pool's order: nothing of it is drawn."""

    def rank(self, pool, rng, store):
        count = len(pool.open(store))
        return Ranked(np.arange(count), -np.arange(count, dtype=float), np.full(count, -1))


@dataclasses.dataclass(frozen=True)
class PicksAnew:
    """Rows drawn for every budget: it ranks nothing."""

    def select(self, pool, budget, rng, store):
        return rng.permutation(np.flatnonzero(pool.open(store).has_image))[:budget]


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return noise_pool.write(tmp_path_factory.mktemp("noise"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(str(tmp_path_factory.mktemp("exam") / "store"))


@pytest.fixture(scope="module")
def exam(pool):
    vectors = PlainVectors(pool)
    return Exam(
        pool,
        {
            "random": Random(),
            "length": Length(None, k=7),
            "semdedup": Semdedup(vectors, Spherical(vectors, k=1)),
            "prefers_swapped": PrefersSwapped(),
            "in_order": InOrder(),
            "picks_anew": PicksAnew(),
        },
        fractions=(0.2,),
        planting=Planting(**NO_SHARES | {"exact": 0.3, "swapped": 0.1}),
        seeds=tuple(range(5)),
    )


@pytest.fixture(scope="module")
def marks(exam, store):
    """Of every selector, by part and name."""
    record = json.loads((store.get(exam) / "exam.json").read_text())
    return {(mark.selector, mark.part, mark.name): mark for mark in read(record["marks"])}


def test_semdedup_drops_exact_copies_and_random_keeps_its_share(marks):
    semdedup, random = (marks[name, "planted", "exact"] for name in ("semdedup", "random"))
    assert semdedup.share < 0.1
    assert semdedup.high < 1
    assert random.low < 1 < random.high
    assert random.value == pytest.approx(1.0, abs=0.3)
    assert random.share == pytest.approx(0.2, abs=0.06)


def test_length_follows_length_and_random_does_not(marks):
    assert marks["length", "length", "R2 of the score"].value > 0.95
    assert marks["random", "length", "R2 of the place"].value < 0.3
    assert ("random", "length", "R2 of the score") not in marks  # it has no scores


def test_a_selector_that_prefers_swapped_answers_is_exposed(marks):
    exposed = marks["prefers_swapped", "planted", "swapped"]
    assert exposed.low > 1
    assert exposed.share == 1
    assert marks["semdedup", "planted", "swapped"].low < 1.5
    (said,) = (line for line in sentences([exposed]))
    assert said.startswith("prefers_swapped at 20 %: it keeps more swapped answers (")


def test_stability_is_that_of_what_is_drawn(marks):
    random = marks["random", "stability", "ranking seeds"]
    assert (random.count, random.chance) == (10, pytest.approx(0.2, abs=0.01))
    assert random.value == pytest.approx(0.2, abs=0.05)
    assert marks["in_order", "stability", "ranking seeds"].value == 1
    assert ("in_order", "stability", "other seeds") not in marks
    assert ("length", "stability", "other seeds") in marks  # of k-means
    half = marks["in_order", "stability", "50 % left out"].value
    assert 0.6 < half <= 1  # the first rows of half the pool are among the first of all
    assert marks["random", "stability", "50 % left out"].value < 0.45


def test_orders_that_are_alike_are_said_to_be(marks):
    assert abs(marks["random", "order", "length"].value) < 0.2
    assert marks["random", "coverage", "sources"].value == 1
    assert marks["random", "coverage", "likeness to the nearest"].value == pytest.approx(
        marks["random", "coverage", "likeness to the nearest"].chance, abs=0.1
    )


def test_a_selector_that_ranks_nothing_is_examined_by_its_subsets(exam, store, marks):
    of_it = {name: mark for (selector, _, name), mark in marks.items() if selector == "picks_anew"}
    assert of_it["ranking seeds"].value == pytest.approx(0.2, abs=0.06)
    assert of_it["exact"].low < 1 < of_it["exact"].high
    assert not {"rank correlation", "R2 of the place", "random"} & set(of_it)
    subsets = [stage for stage in exam.inputs() if stage.kind == "subset"]
    assert len(subsets) == 5 + 1 + 2 + 5  # seeds, the plain one again, parts, planted pools
    planted = subsets[-1]
    folder, rows = store.get(planted), planted.ranking.pool.open(store)
    assert len(json.loads((folder / "rows.json").read_text())) == 61
    assert len(rows) == noise_pool.ROWS


def test_the_page_has_the_tables_and_says_them_in_words(exam, store, marks):
    text = exam.make(store)
    titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert titles[0] == "Stability"
    assert titles[-1] == "In words"
    assert "of the exact copies of rows that it keeps, it keeps 0.0" in text
    assert text.splitlines()[-1] == str(store.get(exam))
    with (store.get(exam) / "exam.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(marks)
    first = marks["random", "stability", "ranking seeds"]
    assert float(lines[0]["value"]) == first.value


def test_the_report_shows_the_exams_of_a_pool(exam, tmp_path):
    """Those of a sweep in one table, also where nothing was chosen of the pool."""
    store = Store(str(tmp_path))
    small = dataclasses.replace(exam, seeds=(0, 1), fit_seeds=(0, 1), rows=101)
    for selectors in ({"random": Random(), "again": Random()}, {"in_order": InOrder()}):
        folder = store.get(dataclasses.replace(small, selectors=selectors))
    (mark,) = (
        mark
        for mark in read(json.loads((folder / "exam.json").read_text())["marks"])
        if (mark.part, mark.name) == ("planted", "exact")
    )
    page = Path(Report().make(store)).read_text(encoding="utf-8")
    assert "What selectors do with pool noise" in page
    section = page.split('id="exam-1"')[1]
    for title in ("Stability", "Planted rows: kept, by clean rows kept", "Orders alike"):
        assert f"<h4>{title}</h4>" in section
    assert all(f">{name}</t" in section for name in ("random", "again", "in_order"))
    assert f"{mark.value:.2f} [{max(mark.low, 0):.2f} to {mark.high:.2f}]" in section
    lead = page.split('<p class="lead">')[1].split("</p>")[0]
    for name in ("again", "in_order"):
        assert f"{name} at 20 %: its subsets under other ranking seeds share " in lead
    assert "in_order at 20 %: " in section


def test_an_exam_is_labelled_by_its_selectors(exam):
    names = "random, length, semdedup, prefers_swapped, in_order, picks_anew"
    assert label(exam) == f"{names}, pool noise"


def test_another_selector_costs_its_own_rankings_alone(exam, store, marks):
    more = dataclasses.replace(exam, selectors={**exam.selectors, "full": InOrder()})
    missing = [stage for stage in planned_stages(more) if not store.path(stage).exists()]
    assert [stage.kind for stage in missing] == ["exam"]
    other = dataclasses.replace(exam, seeds=(0, 1, 2, 9))
    assert key(other) != key(exam)


def test_the_exam_asks_for_what_it_declares(exam, store, marks):
    recorded = set(json.loads((store.path(exam) / "meta.json").read_text())["inputs"])
    assert recorded <= {f"{stage.kind}/{key(stage)}" for stage in exam.inputs()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selectors": {}}, r"name a selector, as in goal=exam selector=random,xmas"),
        ({"seeds": (1,)}, r"exam\.seeds=\[1\]: expected two or more"),
        ({"fit_seeds": (1, 1)}, r"exam\.fit_seeds=\[1, 1\]: expected two or more different"),
        ({"seeds": (0, 1)}, r"exam\.fit_seeds=\[0, 1, 2\] are more than exam\.seeds=\[0, 1\]"),
        ({"shares": (1.0,)}, r"exam\.shares=\[1\.0\]: expected shares between 0 and 1"),
        ({"fractions": ()}, r"exam\.fractions is empty"),
        ({"average": 1}, r"exam\.average=1: expected 2 proxies or more"),
    ],
)
def test_an_exam_that_measures_nothing_is_refused(exam, options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(exam, **options)


def test_overlap_by_hand():
    strata = np.array([0, 0, 0, 0, 1, 1])
    first, second = np.array([0, 1, 4]), np.array([1, 2, 4])
    share, chance = in_common(first, second, strata)
    assert share == pytest.approx(2 / 3)
    assert chance == pytest.approx((2 * 2 / 4 + 1 * 1 / 2) / 3)
    among = np.array([True, True, False, True, False, True])
    assert in_common(first, second, strata, among)[0] == pytest.approx(2 * 1 / 3)
    assert beyond_chance(0.5, 0.2) == pytest.approx(0.375)
    assert math.isnan(in_common(first[:0], second[:0], strata)[0])


def test_copies_kept_by_hand():
    groups = np.array([0, 0, 0, 5, 5, 7, -1])
    chosen = np.array([True, True, False, True, False, True, True])
    # of the first two kept rows, each has one of its two copies kept; of the fourth, none of one
    assert copies_kept(groups, chosen) == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert copies_kept(groups, np.ones(7, dtype=bool)) == 1
    assert math.isnan(copies_kept(groups, np.zeros(7, dtype=bool)))
    rng, counts = np.random.default_rng(0), []
    pairs = np.repeat(np.arange(500), 2)
    for _ in range(40):
        counts.append(copies_kept(pairs, rng.permutation(1000) < 300))
    assert np.mean(counts) == pytest.approx(299 / 999, abs=0.02)


def test_correlation_coverage_and_mix_by_hand():
    assert correlation(np.array([1.0, 5, 9, 2]), np.array([10.0, 30, 40, 20])) == 1
    # ranks 1.5 1.5 3 4 and 1 2 3 4: 1 - 6 * 0.5 / 60 corrected for the tie, by hand
    tied = correlation(np.array([0.0, 0, 1, 2]), np.array([0.0, 1, 2, 3]))
    assert tied == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert math.isnan(correlation(np.zeros(3), np.arange(3.0)))
    labels = np.array([0, 0, 0, 2, 2, 3])
    chosen = np.array([True, True, False, True, False, False])
    share, chance = groups_covered(labels, chosen)
    assert share == pytest.approx(2 / 3)
    assert chance == pytest.approx(1 - (0.125 + 0.25 + 0.5) / 3)
    assert mix_moved(labels, chosen) == pytest.approx((abs(1 / 2 - 2 / 3) + 0 + 1 / 6) / 2)
    vectors = np.array([[1.0, 0], [0, 1], [0.6, 0.8]])
    near = nearest_alike(vectors, np.arange(3), np.random.default_rng(0))
    assert near == pytest.approx((0.6 + 0.8 + 0.8) / 3)


def test_an_interval_is_students():
    value, low, high, count = over_measurements([1.0, 2.0, 4.0, float("nan")], name="x")
    half = 4.303 * np.std([1, 2, 4], ddof=1) / math.sqrt(3)  # t of 2 degrees of freedom
    assert (value, count) == (pytest.approx(7 / 3), 3)
    assert low == pytest.approx(value - half, rel=0.15, abs=0.3)
    assert high == pytest.approx(value + half, rel=0.15)
    assert over_measurements([0.5], name="x") == (0.5, None, None, 1)


def test_words_say_how_stable_it_is_and_what_raises_it():
    marks = [
        Mark("a", 0.1, "stability", "ranking seeds", 0.9, 0.8, 1.0, 0.1),
        Mark("a", 0.1, "stability", "proxy seeds", 0.12, 0.10, 0.14, 0.1, count=3),
        Mark("a", 0.1, "stability", "50 % left out", 0.01, chance=0.1),
        Mark("a", 0.1, "remedy", "twice the epochs", 0.13, 0.12, 0.15, 0.1, count=3),
        Mark("a", 0.1, "remedy", "trajectories of 2 proxies", 0.3, 0.2, 0.4, 0.1, count=3),
        Mark("a", 0.1, "planted", "exact", 9.8, 9.0, 10.5, 0.1, 0.98, 3),
        Mark("a", 0.1, "planted", "empty", 0.2, 0.1, 0.3, 0.1, 0.02, 3),
        Mark("a", 0.1, "planted", "padded", 1.1, 1.05, 1.2, 0.1, 0.11, 3),
        Mark("a", None, "length", "R2 of the score", 0.97, chance=0.0),
    ]
    (said,) = sentences(marks)
    assert (
        "under other proxy seeds share 12 % of their rows (10 % by chance): nearly chance" in said
    )
    assert "; they share 1 % with 50 % left out; " in said
    assert "more rows are shared with trajectories of 2 proxies (30 %)" in said
    assert "it keeps 0.98 (of clean rows 0.10)" in said
    assert "keeps fewer empty answers (0.20) than clean rows" in said
    assert "does not tell padded questions (1.10) from clean rows" in said
    assert "text length explains 97 % of its score" in said


def pools_of(value):
    """Every pool in a tree, outside start points and frozen encoders."""
    if isinstance(value, Pool):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, StartPoint):
        frozen = ("clip",) if isinstance(value, ClipEmbeddings) else ()
        for field in dataclasses.fields(value):
            if field.name not in frozen:
                yield from pools_of(getattr(value, field.name))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from pools_of(part)


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_can_be_moved_to_another_pool_and_seed(name, toy: Toy, toy_selector, pool):
    """Nothing but start points and frozen encoders still belongs to the pool that it was for."""
    selector = toy_selector(name)
    moved = on_pool(selector, toy.pool, pool)
    assert not [of for of in pools_of(moved) if of == toy.pool]
    fits = fits_of(Ranking(pool, moved))
    for fit in fits_of(Ranking(pool, with_fit_seed(moved, 5))):
        assert fit.seed == 5
    assert len(fits) == len(fits_of(Ranking(pool, with_fit_seed(moved, 5))))
    stages = [stage for part in Ranking(pool, moved).inputs() for stage in planned_stages(part)]
    starts = {key(stage) for stage in stages if isinstance(stage, StartPoint)}
    before = [
        stage for part in Ranking(toy.pool, selector).inputs() for stage in planned_stages(part)
    ]
    assert starts == {key(stage) for stage in before if isinstance(stage, StartPoint)}


def test_the_trials_of_a_selector_that_learns(toy: Toy):
    planted = [PlantedPool(toy.pool, seed=seed) for seed in range(3)]
    trials = trials_of(
        toy.xmas,
        toy.pool,
        seeds=(0, 1, 2),
        fit_seeds=(0, 4),
        starts={"untrained": toy.untrained},
        parts=[],
        planted=planted,
        remedies=2,
    )
    assert trials.learns
    proxies = [ranking.selector.trajectories.proxy for ranking in trials.varied["proxy seeds"]]
    assert [proxy.seed for proxy in proxies] == [0, 4]
    assert key(proxies[0]) == key(toy.proxy)
    k_means = [ranking.selector.clusters.seed for ranking in trials.varied["other seeds"]]
    assert k_means == [1234, 1235]
    starts = [
        ranking.selector.trajectories.proxy.start for ranking in trials.varied["start points"]
    ]
    assert starts == [toy.start, toy.untrained]
    assert [ranking.seed for _, ranking in trials.planted] == [0, 1]
    seeds = [ranking.selector.trajectories.proxy.seed for _, ranking in trials.planted]
    assert seeds == [0, 4]
    assert trials.planted[1][1].selector.clusters.features.proxy.pool == planted[1].as_pool()
    assert set(trials.remedies) == {
        "twice the snapshots", "twice the epochs", "another reduction", "trajectories of 2 proxies",
    }  # fmt: skip
    averaged = trials.remedies["trajectories of 2 proxies"][1].selector
    assert averaged.trajectories == averaged.clusters.features
    assert [part.proxy.seed for part in averaged.trajectories.all()] == [8, 9]
    assert trials.remedies["twice the epochs"][1].selector.trajectories.proxy.recipe.epochs == 2
    assert is_fit(toy.proxy)
    assert not trials_of(
        toy.length, toy.pool, seeds=(0, 1), fit_seeds=(0, 1), starts={}, parts=[], planted=[],
        remedies=2,
    ).learns  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Handmade(Store):
    """A store that has trajectories of each seed."""

    def get(self, stage):
        assert isinstance(stage, Trajectories)
        return self.path(stage)


def test_averaged_trajectories_are_the_mean_of_several(toy: Toy, tmp_path):
    store = Handmade(str(tmp_path))
    several = [with_fit_seed(toy.trajectories, seed) for seed in (0, 1, 2)]
    for number, stage in enumerate(several):
        values = np.full((5, 3, 2), float(number**2), dtype=np.float32)
        values[4] = np.nan
        store.path(stage).mkdir(parents=True)
        np.save(store.path(stage) / "values.npy", values)
        np.save(store.path(stage) / "steps.npy", np.array([0, 3, 6]))
        np.save(store.path(stage) / "reasons.npy", np.array([0, 0, 0, 0, 1], dtype=np.uint8))
    stage = AveragedTrajectories.of(several)
    out = tmp_path / "out"
    out.mkdir()
    stage.compute(store, out)
    mean = np.load(out / "values.npy")
    assert mean[:4] == pytest.approx(np.full((4, 3, 2), 5 / 3))
    assert np.isnan(mean[4]).all()
    np.save(store.path(several[2]) / "steps.npy", np.array([0, 3, 7]))
    with pytest.raises(ValueError, match=r"trajectories at steps .* have no mean"):
        stage.compute(store, out)
    assert key(stage) not in {key(one) for one in several}


def test_a_list_of_selectors_is_one_exam():
    words = ["goal=exam", "selector=random,length", "pool=files"]
    added = [f"+selector@exam.selectors.{name}={name}" for name in ("random", "length")]
    assert with_implied(words) == ["goal=exam", "pool=files", *added]
    for others in (["-m", *words], ["goal=exam", "selector=random"], ["goal=audit", words[1]]):
        assert with_implied(others) == others


def test_the_goal_composes_with_every_selector(compose):
    names = [f"+selector@exam.selectors.{name}={name}" for name in SELECTORS]
    exam = build(compose(*names).exam)
    assert list(exam.selectors) == SELECTORS
    assert build(compose(*EVERY_SELECTOR[:1]).exam).selectors == {"random": Random()}
    for name, trials in exam.trials().items():
        assert trials.plain.selector == exam.selectors[name]
    # The command asks those that are made of published weights for them, and no other stage.
    plain = [trials.plain for trials in exam.trials().values()]
    stages = [stage for one in plain for stage in planned_stages(one)]
    for stage in stages:
        if isinstance(stage, NeedsWeights):
            assert all(isinstance(source, Source) for source in stage.sources().values())


def test_the_experiment_examines_selectors_of_every_kind(compose):
    cfg = compose("experiment=exam")
    assert cfg.goal == "exam"
    trials = build(cfg.exam).trials()
    assert set(trials) <= set(SELECTORS)
    assert {name for name, of in trials.items() if of.learns} >= {"xmas", "coincide", "el2n", "s2l"}
    assert {name for name, of in trials.items() if not of.learns} >= {
        "random",
        "length",
        "semdedup",
    }
    rankings = {key(ranking) for of in trials.values() for ranking in of.rankings()}
    assert len(rankings) > 150


def test_further_start_points_are_named_on_the_command_line(compose):
    words = with_own_keys(["selector=xmas", "exam.starts.captioned=${captioned}"])
    cfg = compose(*words)
    exam = build(cfg.exam)
    (trials,) = exam.trials().values()
    starts = [
        ranking.selector.clusters.features.proxy.start for ranking in trials.varied["start points"]
    ]
    assert starts == [build(cfg.start), build(cfg.captioned)]
