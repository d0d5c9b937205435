"""The contract of every selector in the configuration, and XMAS worked out by hand.

A selector's own test is not needed to be held to the contract: its YAML is.
"""

import dataclasses
import functools
import importlib
import json
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tiny
from choices import EVERY_SELECTOR, bind
from hydra.utils import get_class
from omegaconf import OmegaConf
from toy import ROWS, TEXT_ONLY, Toy, declared, recorded

from xmas.cli.config import build, folder
from xmas.data.pool import Pool
from xmas.features.clustering.kmeans import Clusters
from xmas.features.clustering.spherical import Spherical
from xmas.features.trajectories import Trajectories
from xmas.selection.budget import cut
from xmas.selection.methods.aum import Aum
from xmas.selection.methods.random import Random
from xmas.selection.methods.random_in_clusters import RandomInClusters
from xmas.selection.methods.random_text_share import RandomTextShare
from xmas.selection.methods.stratified import Stratified
from xmas.selection.methods.xmas import Xmas, instability, total_variation
from xmas.selection.protocol import BudgetSelector, Ranked, Selector, name_of
from xmas.selection.ranking import Ranking
from xmas.selection.rules.turns import even_quotas
from xmas.selection.subset import Subset
from xmas.store import Store, content, key
from xmas.store.feasible import check_all
from xmas.store.planned_stages import planned_stages  # with what every stage needs

NAMES = sorted(path.stem for path in (Path(folder()) / "selector").glob("*.yaml"))
VARIANT_OF = {
    "visnec": "necessity",
    "dics_vic": "dics",
    "dics_published": "dics",
}  # of the others: the selector before "_released", or xmas
VARIANTS = sorted(path.stem for path in (Path(folder()) / "variant").glob("*.yaml"))
CONTROLS = {"random_in_clusters", "random_text_share", "stratified"}


def kind_of(name: str) -> type:
    """The class that a selector's YAML names."""
    node = OmegaConf.load(Path(folder()) / "selector" / f"{name}.yaml")
    return get_class(node._target_)


RANKING = [name for name in NAMES if not hasattr(kind_of(name), "select")]  # the others: budgets


def test_all_selectors_are_found():
    assert len(NAMES) >= 7
    assert {"full", "length", "random", "xmas"} | CONTROLS <= set(NAMES)
    assert {"full", "length", "random", "xmas"} | CONTROLS <= set(RANKING)
    assert {"released", "without_first", "shuffled"} <= set(VARIANTS)


@pytest.fixture(params=NAMES)
def any_name(request) -> str:
    return request.param


@pytest.fixture
def any_selector(toy_selector, any_name: str) -> Selector | BudgetSelector:
    return toy_selector(any_name)


@pytest.fixture(params=RANKING)
def name(request) -> str:
    return request.param


@pytest.fixture
def selector(toy_selector, name: str) -> Selector:
    return toy_selector(name)


@pytest.fixture(scope="module")
def first(toy: Toy, toy_selector):
    """A function of a selector's name: its first ranking, which nobody changes."""

    @functools.cache
    def first(name: str) -> Ranked:
        np.random.seed(0)  # the global numbers must not matter
        ranked = rank(toy, toy_selector(name))
        for values in (ranked.order, ranked.scores, ranked.clusters):
            values.flags.writeable = False
        return ranked

    return first


@pytest.fixture
def ranked(first, name: str) -> Ranked:
    return first(name)


def rank(toy: Toy, selector: Selector, seed: int = 0) -> Ranked:
    return selector.rank(toy.pool, np.random.default_rng(seed), toy.store)


def test_one_name_for_one_thing(any_name, any_selector):
    """`methods/coincide.py`, `Coincide`, `selector/coincide.yaml`, `coincide` in the table."""
    kind = type(any_selector)
    assert kind.__module__ == f"xmas.selection.methods.{any_name}"
    assert name_of(any_selector) == any_name
    assert (
        getattr(importlib.import_module(f"xmas.selection.methods.{any_name}"), kind.__name__)
        is kind
    )


def test_every_module_of_a_selector_has_a_configuration():
    modules = {
        path.stem for path in (Path(folder()).parent / "xmas/selection/methods").glob("*.py")
    }
    found = {
        module
        for module in modules - {"__init__"}
        for held in vars(importlib.import_module(f"xmas.selection.methods.{module}")).values()
        if isinstance(held, type)
        and held.__module__ == f"xmas.selection.methods.{module}"
        and (hasattr(held, "rank") or hasattr(held, "select"))
    }
    assert found == set(NAMES)


def test_a_selector_is_a_frozen_stage_like_value(any_name, any_selector):
    assert dataclasses.is_dataclass(any_selector)
    assert type(any_selector).__dataclass_params__.frozen
    assert isinstance(any_selector, Selector if any_name in RANKING else BudgetSelector)
    assert key(Ranking(Pool("/dev/null", "."), any_selector))  # fields are plain data and stages


def test_the_order_holds_each_row_once(ranked):
    assert sorted(ranked.order.tolist()) == list(range(ROWS))
    assert ranked.scores.shape == ranked.clusters.shape == (ROWS,)
    assert not np.isinf(ranked.scores).any()
    assert ranked.clusters.min() >= -1


def test_the_same_seed_gives_the_same_order(toy, selector, ranked):
    """Whatever the global numbers are."""
    np.random.seed(1)
    again = rank(toy, selector)
    assert again.order.tolist() == ranked.order.tolist()
    assert np.array_equal(again.scores, ranked.scores, equal_nan=True)


def test_another_seed_gives_another_order_where_something_is_drawn(toy, name, selector, ranked):
    one = ranked
    rng = np.random.default_rng(1)
    before = rng.bit_generator.state
    other = selector.rank(toy.pool, rng, toy.store)
    drawn = rng.bit_generator.state != before
    assert (one.order.tolist() != other.order.tolist()) == drawn
    assert name not in RESOLVED or drawn == (name not in EXACT)
    if name == "xmas":  # only text-only rows are drawn
        images = [row for row in one.order if row not in TEXT_ONLY]
        assert images == [row for row in other.order if row not in TEXT_ONLY]


@pytest.mark.parametrize("policy", ["proportional", "ranked", "exclude", "keep_all"])
def test_budgets_are_exact_and_nested(toy, ranked, policy):
    examples = toy.pool.open()
    before: set[int] = set()
    met = 0
    for budget in (1, 2, 3, 7, 20, 31, ROWS):
        given = {"has_image": examples.has_image, "sources": examples.sources, "text_only": policy}
        if (policy, budget) == ("exclude", ROWS):
            with pytest.raises(ValueError, match=r"budget of 41 rows is over the 34 rows"):
                cut(ranked.order, budget, **given)
            continue
        if policy == "keep_all" and budget < len(TEXT_ONLY):
            with pytest.raises(ValueError, match=rf"budget of {budget} rows is under the 7 rows"):
                cut(ranked.order, budget, **given)
            continue
        rows = cut(ranked.order, budget, **given)
        assert len(rows) == len(set(rows.tolist())) == budget
        assert before <= set(rows.tolist())
        before, met = set(rows.tolist()), met + 1
    assert met >= 4


def test_a_subset_in_the_store_has_the_wanted_rows(toy, any_name, any_selector):
    for fraction, rows in ((0.1, 4), (0.5, 20)):
        subset = Subset(Ranking(toy.pool, any_selector), fraction=fraction)
        chosen = subset.chosen(toy.store).tolist()
        assert len(chosen) == len(set(chosen)) == rows
        manifest = json.loads((toy.store.get(subset) / "manifest.json").read_text())
        assert manifest["selector"] == any_name
        assert manifest["nested"] == (any_name in RANKING)


def test_a_subset_of_the_same_seed_is_the_same(toy, any_selector, tmp_path):
    """What is drawn comes from the seed, and nothing from the store's state or the clock."""
    subset = Subset(Ranking(toy.pool, any_selector), rows=17)
    chosen = subset.chosen(toy.store).tolist()  # of a ranking that other tests have read
    assert subset.chosen(shared(toy, tmp_path)).tolist() == chosen


def shared(toy: Toy, folder: Path) -> Store:
    """A store with all that the toy's has, but rankings and subsets."""
    for kind in Path(toy.store.root).glob("*"):  # which may not be there yet
        if kind.name not in ("ranking", "subset"):
            (folder / kind.name).symlink_to(kind)
    return Store(str(folder))


def test_an_infeasible_budget_is_refused_with_both_numbers(toy, any_selector):
    for options, numbers in (
        ({"rows": 42}, r"subset\.rows=42 is not within 1 and the 41 rows"),
        ({"rows": 35, "text_only": "exclude"}, r"a budget of 35 rows is over the 34 rows"),
        ({"rows": 6, "text_only": "keep_all"}, r"a budget of 6 rows is under the 7 rows"),
    ):
        with pytest.raises(ValueError, match=numbers):
            toy.store.get(Subset(Ranking(toy.pool, any_selector), **options))


def test_what_is_asked_of_the_store_is_declared(toy, any_selector):
    """By the selector and by every stage it rests on; the estimate follows what is declared."""
    subset = Subset(Ranking(toy.pool, any_selector), rows=17)
    toy.store.get(subset)
    for stage in planned_stages(subset):
        assert recorded(toy.store, stage) == declared(stage), type(stage).__name__


def test_no_selector_needs_more_than_it_names(toy, toy_selector, tmp_path):
    """In a store of its own, random computes nothing, and length no proxy's fit."""
    for name, kinds in (
        ("random", set()),
        ("stratified", set()),
        ("full", set()),
        ("column", set()),
        ("length", {"tokens", "tokenizer", "by-name"}),
    ):
        store = Store(str(tmp_path / name))
        toy_selector(name).rank(toy.pool, np.random.default_rng(0), store)
        found = {path.name for path in Path(store.root).glob("*")}
        assert found == kinds


LOOKED_AT = """activations answers clip_embeddings clip_rows gradients last_layer pseudo_labels
  questions shallow tokens trajectories""".split()
RESOLVED = {  # what a selector looks at, and its clusters as published
    "aum": ("answers", None),
    "clip_score": ("clip_embeddings", None),
    "coincide": ("activations", 10_000),
    "column": (None, None),
    "d2": ("clip_rows", None),
    "el2n": ("answers", None),
    "full": (None, None),
    "learnability": ("answers", None),
    "length": ("tokens", 1000),
    "magic": ("answers", None),
    "necessity": ("answers", None),
    "ofa": ("pseudo_labels", 128),
    "perplexity": ("answers", None),
    "prism": ("shallow", None),
    "quality_diversity": ("clip_rows", None),
    "random": (None, None),
    "random_in_clusters": ("trajectories", 1000),
    "random_text_share": ("trajectories", 1000),  # of the selector it is like
    "s2l": ("answers", 100),
    "scalselect": ("shallow", None),
    "self_sup": ("clip_rows", 500),
    "semdedup": ("clip_rows", 10_000),
    "stratified": (None, None),
    "typiclust": ("clip_rows", 500),
    "xmas": ("trajectories", 1000),
}
UNDER = {"clip_rows": "clip_embeddings", "pseudo_labels": "clip_embeddings"}
EXACT = set("aum coincide column el2n full learnability necessity perplexity".split())  # no draws


@pytest.mark.parametrize("name", RESOLVED)
def test_every_selector_looks_at_its_own_features_in_its_own_clusters(compose, name):
    selector = build(compose("~experiment", *EVERY_SELECTOR).every[name])
    needed = planned_stages(Ranking(Pool("/dev/null", "."), selector))
    kinds = {stage.kind for stage in needed}
    feature, k = RESOLVED[name]
    wanted = {feature, UNDER.get(str(feature))} - {None}
    behind_a_model = (
        {"tokens"} if kinds & {"answers", "trajectories", "activations", "shallow"} else set()
    )
    assert kinds & set(LOOKED_AT) == wanted | behind_a_model
    of_the_start = name in ("magic", "necessity")  # answers under a target before its fit
    fitted = feature in ("trajectories", "activations", "answers") and not of_the_start
    assert ("proxy" in kinds) == fitted
    assert "target" not in kinds
    holders = [*needed, selector] if hasattr(selector, "k") else needed
    clustered = [each for each in holders if hasattr(each, "k")]
    assert {each.k for each in clustered} == ({k} if k else set())


def test_a_sweep_over_k_reaches_every_selector_that_clusters(toy_selector):
    assert toy_selector("xmas", "clusters.trajectories.k=3").clusters.k == 3
    assert toy_selector("length", "clusters.trajectories.k=3").k == 3
    assert toy_selector("random", "clusters.trajectories.k=3") == Random()


def test_length_clusters_by_the_number_of_text_tokens(toy):
    ranked = rank(toy, toy.length)
    lengths = toy.proxy.tokens().open(toy.store).text_lengths
    assert ranked.scores.tolist() == lengths.tolist()
    assert len(set(ranked.clusters.tolist())) == 5
    for cluster in range(5):  # an interval of lengths each
        inside = lengths[ranked.clusters == cluster]
        between = (lengths >= inside.min()) & (lengths <= inside.max())
        assert (ranked.clusters[between] == cluster).all()


def test_length_takes_fewer_clusters_where_lengths_are_few(toy):
    lengths = toy.proxy.tokens().open(toy.store).text_lengths
    ranked = rank(toy, dataclasses.replace(toy.length, k=1000))
    assert 5 < len(set(ranked.clusters.tolist())) <= len(set(lengths.tolist())) < 41


# XMAS by hand: six image rows and three of text, three snapshots, two singular values.


@dataclasses.dataclass(frozen=True)
class Drawn(Trajectories):
    """Trajectories out of a file."""

    kind: ClassVar[str] = "drawn_trajectories"

    file: str = content("")

    def compute(self, store: Store, out: Path) -> None:
        np.save(out / "values.npy", np.load(self.file))


@dataclasses.dataclass(frozen=True)
class Labelled(Clusters):
    """Clusters out of a file."""

    kind: ClassVar[str] = "drawn_clusters"

    file: str = content("")

    def compute(self, store: Store, out: Path) -> None:
        np.save(out / "labels.npy", np.load(self.file))


NAN = float("nan")
VALUES = [
    [[5, 1], [4, 1], [4, 1]],  # sums 6, 5, 5: total variation 1; first 5, 4, 4: 1
    [[9, 0], [2, 3], [7, 1]],  # sums 9, 5, 8: 7; first 9, 2, 7: 12
    [[NAN] * 2] * 3,
    [[3, 3], [3, 2], [4, 2]],  # sums 6, 5, 6: 2; first 3, 3, 4: 1
    [[8, 1], [7, 1], [7, 1]],  # sums 9, 8, 8: 1; first 1
    [[NAN] * 2] * 3,
    [[2, 2], [2, 2], [2, 2]],  # 0
    [[NAN] * 2] * 3,
    [[1, 0], [0, 0], [0, 1]],  # sums 1, 0, 1: 2; first 1, 0, 0: 1
]
LABELS = [0, 0, 2, 0, 1, 2, 0, 2, 1]  # cluster 0: rows 0 1 3 6; 1: rows 4 8; 2, text-only: 2 5 7


def pool_of(folder: Path, has_image: list[bool]) -> Pool:
    """A pool of rows that say nothing; those with an image name one."""
    said = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]
    seen = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "!"}]
    records = [
        {"image": "a.png", "conversations": seen} if image else {"conversations": said}
        for image in has_image
    ]
    (folder / "small.json").write_text(json.dumps(records))
    return Pool(str(folder / "small.json"), str(folder), name="small")


@pytest.fixture
def by_hand(toy: Toy, tmp_path: Path):
    """What a selector makes of given values and labels; rows without a value have no image."""

    def make(
        values: list = VALUES, labels: list = LABELS, *, seed: int = 0, images=None, **options
    ) -> Ranked:
        np.save(tmp_path / "values.npy", np.array(values, dtype=np.float32))
        np.save(tmp_path / "labels.npy", np.array(labels))
        drawn = Drawn(toy.proxy, file=str(tmp_path / "values.npy"))
        kind = options.pop("kind", Xmas)
        own = {name: options.pop(name) for name in ("stability", "smallest") if name in options}
        clusters = Labelled(drawn, 2, file=str(tmp_path / "labels.npy"), **options)
        selector = Xmas(drawn, clusters, **own) if kind is Xmas else kind(clusters)
        textual = np.isnan(np.array(values)).all(axis=(1, 2))
        pool = pool_of(tmp_path, images or (~textual).tolist())
        return selector.rank(pool, np.random.default_rng(seed), toy.store)

    return make


def test_total_variation_by_hand():
    values = np.array([[6.0, 5, 5], [9, 5, 8], [1, -1, 1], [2, 2, 2]])
    assert total_variation(values).tolist() == [1, 7, 4, 0]


def test_instability_by_hand():
    values = np.array([[8.0, 4, 6], [NAN, NAN, NAN], [80, 40, 60]])
    assert np.array_equal(instability(values, "absolute"), [6, NAN, 60], equal_nan=True)
    relative = [0.75, NAN, 0.75]  # 4/8 + 2/8
    assert np.array_equal(instability(values, "relative"), relative, equal_nan=True)
    log = [np.log(2) + np.log(1.5), NAN, np.log(2) + np.log(1.5)]
    np.testing.assert_allclose(instability(values, "log"), log, rtol=1e-14)


@pytest.mark.parametrize(
    ("values", "stability", "message"),
    [
        ([[1.0, 2]], "relativ", "stability 'relativ': expected one of absolute, relative, log"),
        ([[1.0]], "absolute", "one snapshot does not vary.*selector=random_in_clusters"),
        (
            [[1.0, 2], [3, 0]],
            "log",
            r"stability log: row 1 has values \[3. 0.\], expected all above",
        ),
        ([[1.0, 2], [-3, 1]], "relative", "stability relative: row 1 has values"),
    ],
)
def test_what_has_no_stability_is_refused(values, stability, message):
    with pytest.raises(ValueError, match=message):
        instability(np.array(values), stability)


def test_a_fit_of_one_step_is_refused_for_xmas_before_it_starts(toy, tmp_path):
    recipe = dataclasses.replace(toy.proxy.recipe, batch=41, micro_batch=41)
    trajectories = Trajectories(dataclasses.replace(toy.proxy, recipe=recipe))
    selector = Xmas(trajectories, Clusters(trajectories, k=2))
    store = Store(str(tmp_path / "store"))
    with pytest.raises(ValueError, match=r"fit has 1 optimiser steps and 1 snap.*lower proxy"):
        check_all(Ranking(toy.pool, selector), store)
    check_all(Ranking(toy.pool, toy.xmas), store)
    check_all(Ranking(toy.pool, RandomInClusters(selector.clusters)), store)
    assert not (tmp_path / "store").exists()


def test_xmas_by_hand(by_hand):
    ranked = by_hand()
    scores = [-1, -7, NAN, -2, -1, NAN, 0, NAN, -2]
    assert np.array_equal(ranked.scores, scores, equal_nan=True)
    assert ranked.clusters.tolist() == LABELS
    # In a turn the largest cluster first: 0 (6, 0, 3, 1), text-only (any order), 1 (4, 8).
    order = ranked.order.tolist()
    assert [row for row in order if row in (6, 0, 3, 1)] == [6, 0, 3, 1]
    assert [row for row in order if row in (4, 8)] == [4, 8]
    assert [LABELS[row] for row in order] == [0, 2, 1, 0, 2, 1, 0, 2, 0]
    assert {order[1], order[4], order[7]} == {2, 5, 7}


def test_xmas_draws_text_only_rows_and_nothing_else(by_hand):
    texts = {
        tuple(row for row in by_hand(seed=seed).order if row in (2, 5, 7)) for seed in range(40)
    }
    assert len(texts) == 6  # all orders of three rows


def test_xmas_gives_every_budget_its_quotas(by_hand):
    ranked = by_hand()
    sizes = np.bincount(LABELS)
    for budget in range(1, 10):
        taken = np.bincount(np.array(LABELS)[ranked.order[:budget]], minlength=3)
        assert taken.tolist() == even_quotas(sizes, budget).tolist()


def test_xmas_breaks_ties_by_row(by_hand):
    ranked = by_hand([[[1, 1], [2, 1]]] * 7, [0] * 7)
    assert ranked.order.tolist() == list(range(7))


def test_xmas_measures_instability_on_what_was_clustered(by_hand):
    first = by_hand(reduction="first")
    assert np.array_equal(first.scores, [-1, -12, NAN, -1, -1, NAN, 0, NAN, -1], equal_nan=True)
    assert [row for row in first.order if row in (0, 1, 3, 6)] == [6, 0, 3, 1]
    vector = by_hand(reduction="vector")  # clustered on all values, measured on the sum
    assert np.array_equal(vector.scores, by_hand().scores, equal_nan=True)
    later = by_hand(snapshots="1:")  # sums 5 5, 5 8, 5 6, 8 8, 4 4, 0 1
    assert np.array_equal(later.scores, [0, -3, NAN, -1, 0, NAN, 0, NAN, -1], equal_nan=True)
    ends = by_hand(snapshots="::2", stability="relative")
    scores = [-1 / 6, -1 / 9, NAN, 0, -1 / 9, NAN, 0, NAN, 0]
    np.testing.assert_allclose(ends.scores, scores)


def test_xmas_measures_instability_on_sums_as_they_are_clustered(by_hand):
    """Rounded to float32, of which 2^24 + 1 and 2^24 are one number."""
    large = 2.0**24
    ranked = by_hand([[[large, 1], [large, 0]], [[large, 2], [large, 0]]], [0, 0])
    assert ranked.scores.tolist() == [0, -2]


def test_shuffled_snapshots_keep_a_row_s_values_but_not_their_order(by_hand):
    values = np.random.default_rng(2).uniform(1, 9, (9, 5, 1))
    plain, shuffled = by_hand(values.tolist()), by_hand(values.tolist(), shuffled=4)
    assert (plain.scores != shuffled.scores).sum() > 5
    least, most = np.ptp(values[:, :, 0], axis=1), 4 * np.ptp(values[:, :, 0], axis=1)
    assert (-shuffled.scores >= least - 1e-5).all()
    assert (-shuffled.scores <= most + 1e-5).all()
    assert np.array_equal(shuffled.scores, by_hand(values.tolist(), shuffled=4).scores)
    assert (shuffled.scores != by_hand(values.tolist(), shuffled=5).scores).any()


def test_small_clusters_wait_behind_the_others(by_hand):
    ranked = by_hand(smallest=3)  # cluster 1 has two rows, 4 and 8
    assert ranked.order[-2:].tolist() == [4, 8]
    assert [LABELS[row] for row in ranked.order] == [0, 2, 0, 2, 0, 2, 0, 1, 1]


@pytest.mark.parametrize("kind", [Xmas, RandomInClusters])
def test_rows_with_an_image_but_no_trajectory_come_last_in_no_cluster(by_hand, kind):
    images = [True, True, False, True, True, True, True, False, True]  # 5 has one, but no value
    ranked = by_hand(images=images, kind=kind)
    assert ranked.order[-1] == 5
    assert ranked.clusters.tolist() == [0, 0, 2, 0, 1, -1, 0, 2, 1]
    assert np.isnan(ranked.scores[5])


def test_text_only_rows_are_one_cluster_even_where_they_were_clustered(by_hand):
    labels = [0, 0, 1, 0, 1, 0, 0, 1, 1]  # as k-means over zeros may label 2, 5 and 7
    ranked = by_hand(labels=labels)
    assert ranked.clusters.tolist() == LABELS


def test_random_in_clusters_has_xmas_s_quotas_and_any_row_inside(by_hand):
    sizes, first = np.bincount(LABELS), set()
    for seed in range(30):
        ranked = by_hand(kind=RandomInClusters, seed=seed)
        for budget in range(1, 10):
            taken = np.bincount(np.array(LABELS)[ranked.order[:budget]], minlength=3)
            assert taken.tolist() == even_quotas(sizes, budget).tolist()
        first.add(int(ranked.order[0]))
    assert first == {0, 1, 3, 6}


# The release, written anew after the description of its two scripts.


def released_labels(values: np.ndarray, k: int) -> np.ndarray:
    """`kmeans_clustering.py`: FAISS with its defaults, NaN as 0, all points assigned."""
    import faiss

    summed = np.nan_to_num(values.sum(axis=2)).astype(np.float32)
    model = faiss.Kmeans(summed.shape[1], k, niter=100)
    model.train(summed)
    return model.index.search(summed, 1)[1][:, 0]


def released_sample(
    labels: np.ndarray, values: np.ndarray, text: set[int], percentage: int
) -> tuple[set[int], int]:
    """`cluster_data_selection.py`: its image rows, and how many text-only rows it draws.

    Sizes are sorted stably here, where the release leaves clusters of one size in any order.
    """
    of_row = {row: int(label) for row, label in enumerate(labels)}
    extra = max(of_row.values()) + 1
    of_row |= dict.fromkeys(text, extra)
    members: dict[int, list[int]] = {}
    for row, label in of_row.items():
        members.setdefault(label, []).append(row)
    left = percentage * len(of_row) // 100
    visited = sorted((len(rows), label) for label, rows in members.items() if len(rows) > 2)
    moved = np.abs(np.diff(values.sum(axis=2), axis=1)).sum(axis=1)
    images: set[int] = set()
    texts = 0
    for number, (size, label) in enumerate(visited):
        quota = left // (len(visited) - number)
        if label == extra:
            assert quota <= size, "random.sample would fail"
            texts = quota
            left -= quota
        else:
            best = sorted(members[label], key=lambda row: moved[row])[:quota]
            images |= set(best)
            left -= len(best)
    return images, texts


@pytest.mark.parametrize("k", [3, 41, 211])  # 3: FAISS trains on 768 of the rows
def test_the_released_variant_is_the_release(toy, toy_selector, tmp_path, k):
    rng = np.random.default_rng(k)
    count = 997
    text = set(rng.choice(count, 61, replace=False).tolist())
    start = rng.lognormal(2, 0.5, (count, 1, 1)).astype(np.float32)
    values = (start * rng.uniform(0.2, 1, (count, 7, 5))).astype(np.float32)
    values[sorted(text)] = NAN
    np.save(tmp_path / "values.npy", values)
    drawn = Drawn(toy.proxy, file=str(tmp_path / "values.npy"))
    built = toy_selector("xmas", "variant=released", f"clusters.trajectories.k={k}")
    assert isinstance(built, Xmas)
    clusters = dataclasses.replace(built.clusters, features=drawn)
    selector = dataclasses.replace(built, trajectories=drawn, clusters=clusters)
    pool = pool_of(tmp_path, [row not in text for row in range(count)])
    labels = released_labels(values, k)
    small = np.bincount(labels[sorted(set(range(count)) - text)], minlength=k)
    assert k < 200 or ((small > 0) & (small <= 2)).any()  # what is dropped is there
    percentages = (1, 5, 10, 20) if k == 3 else (1, 5, 10, 20, 33, 50)
    for percentage in percentages:
        images, texts = released_sample(labels, values.astype(np.float64), text, percentage)
        subset = Subset(Ranking(pool, selector), fraction=percentage / 100, text_only="ranked")
        chosen = set(subset.chosen(toy.store).tolist())
        assert chosen - text == images
        assert len(chosen & text) == texts
        assert len(chosen) == percentage * count // 100


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_ranks(toy, compose, toy_selector, tmp_path_factory, variant):
    more = []
    if variant == "visnec":
        tiny.sentence_encoder(encoder := tmp_path_factory.mktemp("encoder"))
        more = [f"features.questions.encoder.name={encoder}"]
    if variant == "dics_published":
        more = ["features.consistency.weights=none"]  # spaCy has no tagger here
    cfg = compose(*toy.overrides(), *more, f"variant={variant}")
    assert len(bind(cfg)) > 15
    selector = build(cfg.selector)
    other = VARIANT_OF.get(variant, variant.removesuffix("_released"))
    assert name_of(selector) in ({other} & set(NAMES) or {"xmas", "random_in_clusters"})
    assert selector != toy_selector(name_of(selector))
    plain = OmegaConf.to_container(cfg.clusters.trajectories)
    assert {*plain} == {"_target_", *(field.name for field in dataclasses.fields(Clusters))}
    if variant in ("concat_text", "concat_vision", "last_layer"):  # another scan; see attention
        assert build(cfg.features.trajectories) != toy.trajectories
    elif variant == "ends":  # the toy has three snapshots, of which ::6 keeps the first
        with pytest.raises(ValueError, match="one snapshot does not vary"):
            rank(toy, selector)
    elif isinstance(selector, BudgetSelector):
        rules = {"rows": 17, "text_only": cfg.subset.text_only}
        assert len(Subset(Ranking(toy.pool, selector), **rules).chosen(toy.store)) == 17
    else:
        assert sorted(rank(toy, selector).order) == list(range(ROWS))


@pytest.mark.parametrize("selector", ["coincide", "d2", "semdedup"])
def test_released_baselines_have_coincide_s_features_and_rank_all_rows(toy, compose, selector):
    cfg = compose(*toy.overrides(), f"variant={selector}_released")
    built, features = build(cfg.selector), build(cfg.features)
    assert cfg.subset.text_only == "ranked"
    if selector == "coincide":
        assert (built.mode, built.features.mode) == ("released", "released")
    else:
        token = {"d2": "mean", "semdedup": "last"}[selector]
        assert built.features == features["last_layer"]
        assert (built.features.kind, built.features.token) == ("last_layer", token)
    if selector == "semdedup":
        hardware = built.clusters.hardware
        assert built.clusters == Spherical(built.features, k=5, hardware=hardware)
    if selector == "d2":
        assert built.importance == Aum(features["answers"])
    scores = rank(toy, built).scores
    assert np.isfinite(scores).all()  # text-only rows, too, are looked at


def test_the_released_variant_has_the_release_s_numbers(compose):
    cfg = compose("variant=released")
    how = cfg.clusters.trajectories
    assert (how.k, how.iterations, how.seed, how.per_centroid) == (1000, 100, 1234, 256)
    assert (how.reduction, how.scaling, how.missing) == ("sum", "none", "zero")
    assert (cfg.selector.stability, cfg.selector.smallest) == ("absolute", 3)
    assert cfg.subset.text_only == "ranked"


# The other controls.


def test_stratified_gives_every_source_its_share_at_every_budget(toy):
    """Against Sainte-Laguë's rule as it is told: the next seat to the largest n / (2 s + 1)."""
    sources = toy.pool.open().sources
    names, sizes = np.unique(sources, return_counts=True)
    assert len(names) > 3
    for seed in range(5):
        ranked = rank(toy, Stratified(), seed)
        taken = dict.fromkeys(names.tolist(), 0)
        for budget, row in enumerate(ranked.order, start=1):
            claims = {n: s / (2 * taken[n] + 1) for n, s in zip(names.tolist(), sizes, strict=True)}
            assert claims[sources[row]] == pytest.approx(max(claims.values()))
            taken[sources[row]] += 1
            shares = budget * sizes / ROWS
            assert (np.abs(np.array([*taken.values()]) - shares) < 1).all()
    assert ranked.clusters.tolist() == np.searchsorted(names, sources).tolist()


def test_stratified_draws_any_row_of_a_source(toy):
    sources = toy.pool.open().sources
    name = max(set(sources.tolist()), key=sources.tolist().count)
    first = {
        next(int(row) for row in rank(toy, Stratified(), seed).order if sources[row] == name)
        for seed in range(200)
    }
    assert first == set(np.flatnonzero(sources == name).tolist())


def test_random_text_share_has_the_other_s_share_at_every_budget(toy):
    like = Ranking(toy.pool, toy.xmas, 1)
    has_image = toy.pool.open().has_image
    other = Ranking.read(toy.store.get(like)).order
    orders = [rank(toy, RandomTextShare(like), seed).order for seed in range(3)]
    for order in orders:
        assert sorted(order) == list(range(ROWS))
        assert (has_image[order] == has_image[other]).all()
    assert len({tuple(order[has_image[order]]) for order in orders}) == 3
    assert len({tuple(order[~has_image[order]]) for order in orders}) == 3


def test_the_other_of_random_text_share_is_named_on_the_command_line(toy_selector):
    other = toy_selector("random_text_share", "selector@selector.like.selector=length", "seed=5")
    assert isinstance(other, RandomTextShare)
    assert (name_of(other.like.selector), other.like.seed) == ("length", 5)
    default = toy_selector("random_text_share")
    assert name_of(default.like.selector) == "xmas"


def test_random_text_share_refuses_the_ranking_of_another_pool(toy, tmp_path):
    like = Ranking(pool_of(tmp_path, [True, False, True]), Random())
    with pytest.raises(ValueError, match="the other ranking has 3 rows, the pool 41"):
        rank(toy, RandomTextShare(like))


def test_xmas_on_the_toy_prefers_stable_rows_within_a_cluster(toy):
    ranked = rank(toy, toy.xmas)
    labels = np.load(toy.store.get(toy.clusters) / "labels.npy")
    assert ranked.clusters.tolist() == labels.tolist()
    assert tuple(np.flatnonzero(labels == 5)) == TEXT_ONLY
    assert tuple(np.flatnonzero(np.isnan(ranked.scores))) == TEXT_ONLY
    for cluster in range(5):
        inside = [row for row in ranked.order if labels[row] == cluster]
        assert inside
        assert (np.diff(ranked.scores[inside]) <= 0).all()


# Ranking, the stage around a selector.


@dataclasses.dataclass(frozen=True)
class Broken:
    """Ranks what it is told to."""

    order: tuple[int, ...]

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        order = np.array(self.order)
        return Ranked(order, np.zeros(len(order)), np.full(len(order), -1))


@pytest.mark.parametrize(
    ("order", "counted"),
    [
        (range(40), "ranked 40 rows, 40 of them different; the pool has 41"),
        ([*range(40), 39], "ranked 41 rows, 40 of them different; the pool has 41"),
        (range(1, 42), "ranked 41 rows, 41 of them different; the pool has 41"),
    ],
    ids=["too few", "one twice", "one beyond"],
)
def test_an_order_that_is_none_is_refused(toy, order, counted):
    with pytest.raises(ValueError, match=f"broken {counted}"):
        toy.store.get(Ranking(toy.pool, Broken(tuple(order))))


def test_a_ranking_in_the_store_is_what_the_selector_gave(toy):
    folder = toy.store.get(Ranking(toy.pool, toy.xmas, seed=4))
    rng = np.random.default_rng([4, zlib.crc32(b"Xmas")])
    ranked = toy.xmas.rank(toy.pool, rng, toy.store)
    order, scores, clusters = (
        np.load(folder / f"{name}.npy") for name in ("order", "row_scores", "clusters")
    )
    assert (order.dtype, scores.dtype, clusters.dtype) == (np.int64, np.float32, np.int64)
    assert order.tolist() == ranked.order.tolist()
    assert np.array_equal(scores, ranked.scores.astype(np.float32), equal_nan=True)
    assert clusters.tolist() == ranked.clusters.tolist()


@dataclasses.dataclass(frozen=True)
class Shuffled:
    """Another random order."""

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        return Random().rank(pool, rng, store)


def test_two_selectors_that_shuffle_do_not_draw_the_same_rows(toy):
    orders = {
        tuple(np.load(toy.store.get(Ranking(toy.pool, each, seed=7)) / "order.npy").tolist())
        for each in (Random(), Shuffled())
    }
    assert len(orders) == 2


def test_a_sweep_over_budgets_ranks_once(toy):
    subsets = [toy.subset(Random(), rows=rows) for rows in (3, 5)]
    assert len({key(subset.ranking) for subset in subsets}) == 1
    assert len({key(subset) for subset in subsets}) == 2
