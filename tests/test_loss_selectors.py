"""Selectors by losses, worked out by hand; one pass over the answers serves them all."""

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode
from toy import ROWS, TEXT_ONLY, Toy, shared, turns

from xmas.cli.config import build
from xmas.data.pool import Pool
from xmas.estimate import flops
from xmas.estimate.assumed import Assumed
from xmas.estimate.per_stage.losses import answers_load
from xmas.estimate.work import Context, work
from xmas.features.losses.answer_scorer import ScorerSettings
from xmas.features.losses.answers import Answers
from xmas.features.losses.loss_clusters import LossClusters
from xmas.models.shape import shape_of
from xmas.selection.methods.aum import Aum
from xmas.selection.methods.el2n import El2n
from xmas.selection.methods.learnability import Learnability
from xmas.selection.methods.necessity import Necessity, best_of_each
from xmas.selection.methods.perplexity import Perplexity, middle_first
from xmas.selection.methods.s2l import S2l
from xmas.selection.protocol import Selector
from xmas.selection.ranking import Ranking
from xmas.selection.rules.turns import even_quotas
from xmas.selection.subset import Subset
from xmas.store import Stage, Store, content, key
from xmas.store.planned_stages import planned_stages

NAN = float("nan")


@dataclasses.dataclass(frozen=True)
class Drawn(Answers):
    """Answers out of files."""

    kind: ClassVar[str] = "drawn_answers"

    folder: str = content("")

    def compute(self, store: Store, out: Path) -> None:
        given = np.load(Path(self.folder) / "given.npz")
        (out / "columns").mkdir()
        np.save(out / "values.npy", given["values"])
        np.save(out / "steps.npy", np.arange(given["losses"].shape[1]))
        for step, losses in enumerate(given["losses"].T):
            column = np.stack([losses, losses * 0, losses * 0], axis=1)
            np.save(out / "columns" / f"{step}.npy", column)


@dataclasses.dataclass(frozen=True)
class Labelled(Stage):
    """Labels out of a file."""

    kind: ClassVar[str] = "drawn_labels"

    file: str = content("")

    def compute(self, store: Store, out: Path) -> None:
        np.save(out / "labels.npy", np.load(self.file))


#          loss  el2n margin tokens blind
VALUES = [
    [1.0, 0.5, 0.25, 3, 1.5],  # necessity 0.5
    [0.5, 0.75, -0.5, 2, 2.5],  # 2
    [NAN, NAN, NAN, 0, NAN],  # no answer
    [2.0, 0.5, 0.25, 9, 2.0],  # 0: text-only
    [3.0, 1.25, 0.0, 1, 2.5],  # -0.5
    [1.0, 0.25, 0.75, 4, 3.0],  # 2
]
LOSSES = [[3.0, 2, 1], [1.5, 1, 0.5], [NAN] * 3, [2, 2, 2], [2.5, 2, 3], [4.0, 1, 1]]


@pytest.fixture
def drawn(toy: Toy, tmp_path: Path):
    def make(values=VALUES, losses=LOSSES) -> Answers:
        place = tmp_path / "drawn"
        place.mkdir(exist_ok=True)
        np.savez(place / "given.npz", values=np.array(values, np.float32), losses=np.array(losses))
        return Drawn(toy.proxy, folder=str(place))

    return make


def rank(toy: Toy, selector: Selector, seed: int = 0):
    return selector.rank(toy.pool, np.random.default_rng(seed), toy.store)


def test_el2n_has_the_worst_foreseen_first_and_breaks_ties_by_row(toy, drawn):
    ranked = rank(toy, El2n(drawn()))
    assert ranked.order.tolist() == [4, 1, 0, 3, 5, 2]
    assert np.array_equal(ranked.scores, [0.5, 0.75, NAN, 0.5, 1.25, 0.25], equal_nan=True)
    assert set(ranked.clusters) == {-1}


def test_aum_has_the_largest_margin_first(toy, drawn):
    assert rank(toy, Aum(drawn())).order.tolist() == [5, 0, 3, 4, 1, 2]


def test_learnability_has_the_largest_fall_first(toy, drawn):
    ranked = rank(toy, Learnability(drawn()))
    assert np.array_equal(ranked.scores, [2, 1, NAN, 0, -0.5, 3], equal_nan=True)
    assert ranked.order.tolist() == [5, 0, 1, 3, 4, 2]


def test_learnability_of_one_snapshot_is_refused(toy, drawn):
    with pytest.raises(ValueError, match=r"one step only.*proxy\.snapshots to 2"):
        rank(toy, Learnability(drawn(losses=[[1.0]] * 6)))


def test_perplexity_is_exp_of_the_loss_and_its_middle_comes_first(toy, drawn):
    ranked = rank(toy, Perplexity(drawn()))
    # Sorted: rows 1, 0, 5, 3, 4; the middle is 5, then 0 and 3, then 1 and 4.
    assert ranked.order.tolist() == [5, 0, 3, 1, 4, 2]
    np.testing.assert_allclose(ranked.scores[[0, 3]], np.exp([1, 2]))


@pytest.mark.parametrize("count", [1, 2, 7, 10])
def test_every_prefix_of_the_middle_is_a_central_band(count):
    rng = np.random.default_rng(count)
    values = np.r_[rng.permutation(count).astype(float), NAN]
    order = middle_first(values)
    assert sorted(order.tolist()) == list(range(count + 1))
    assert order[-1] == count
    for budget in range(1, count + 1):
        band = np.sort(values[order[:budget]])
        below, above = band[0], count - 1 - band[-1]
        assert np.diff(band).tolist() == [1] * (budget - 1)
        assert above - below in (0, 1)  # of an odd rest the lower side gets the row


def test_necessity_by_hand(toy, drawn):
    ranked = rank(toy, Necessity(drawn()))
    assert np.array_equal(ranked.scores, [0.5, 2, NAN, 0, -0.5, 2], equal_nan=True)
    assert ranked.order.tolist() == [1, 5, 0, 3, 4, 2]
    assert set(ranked.clusters) == {-1}


def test_necessity_by_clusters_takes_the_best_of_each(toy, drawn, tmp_path):
    np.save(tmp_path / "labels.npy", np.array([0, 0, 0, 1, 1, 0]))
    ranked = rank(toy, Necessity(drawn(), Labelled(str(tmp_path / "labels.npy"))))
    # Cluster 0: 1, 5, 0, 2 at 1/8, 3/8, 5/8, 7/8; cluster 1: 3, 4 at 1/4, 3/4.
    assert ranked.order.tolist() == [1, 3, 5, 0, 4, 2]
    assert ranked.clusters.tolist() == [0, 0, 0, 1, 1, 0]


def test_every_budget_of_best_of_each_is_within_a_row_of_the_clusters_shares():
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 5, 211), rng.normal(size=211)
    order = best_of_each(scores, labels)
    sizes = np.bincount(labels)
    for budget in range(1, 212):
        taken = order[:budget]
        counts = np.bincount(labels[taken], minlength=5)
        assert (abs(counts - sizes * budget / 211) < 1.5).all()
        for label, count in enumerate(counts):
            inside = np.flatnonzero(labels == label)
            best = inside[np.argsort(-scores[inside], kind="stable")][:count]
            assert set(best) == set(taken[labels[taken] == label])


# S2L.


def test_s2l_splits_every_budget_over_sources_and_then_over_clusters(toy, tmp_path):
    """On the toy, whose sources and clusters differ in size."""
    clusters = LossClusters(
        toy.pool, Answers(toy.proxy, ScorerSettings(batch_tokens=512, shard_rows=11)), k=3
    )
    labels = np.load(toy.store.get(clusters) / "labels.npy")
    names, sources, sizes = np.unique(
        toy.pool.open().sources, return_inverse=True, return_counts=True
    )
    assert len(names) > 3
    assert len(set(sizes)) > 2
    for label in range(labels.max() + 1):
        assert len(set(sources[labels == label])) == 1  # no cluster is of two sources
    assert labels.min() == 0
    ranked = rank(toy, S2l(clusters), seed=3)
    assert sorted(ranked.order.tolist()) == list(range(ROWS))
    assert np.isnan(ranked.scores).all()
    for budget in range(1, ROWS + 1):
        taken = ranked.order[:budget]
        of_source = np.bincount(sources[taken], minlength=len(names))
        assert of_source.tolist() == even_quotas(sizes, budget).tolist()
        for source, quota in enumerate(of_source):
            own = np.unique(labels[sources == source], return_counts=True)
            inside = taken[sources[taken] == source]
            counts = [int((labels[inside] == label).sum()) for label in own[0]]
            assert counts == even_quotas(own[1], int(quota)).tolist()


def test_s2l_leaves_small_clusters_of_a_source_to_the_end_where_the_release_is_asked_for(
    toy, drawn, tmp_path
):
    """Sources of 7 and 4 rows; clusters of 4, 2 and 1 rows, and of 3 and 1."""
    losses = [[0.0], [0.0], [5.0], [0.0], [5.0], [0.0], [9.0], [1.0], [1.0], [7.0], [1.0]]
    records = [
        {"source": "seven" if row < 7 else "four", "conversations": turns("?", "!")}
        for row in range(11)
    ]
    (tmp_path / "two.json").write_text(json.dumps(records))
    pool = Pool(str(tmp_path / "two.json"), str(tmp_path))
    stage = LossClusters(pool, drawn(np.zeros((11, 5)), losses), k=3)
    found = np.load(toy.store.get(stage) / "labels.npy")
    assert sorted(np.unique(found[:7], return_counts=True)[1].tolist()) == [1, 2, 4]
    sources = np.array(["seven"] * 7 + ["four"] * 4)
    for smallest, last in ((1, set()), (3, {2, 4, 6})):
        order = S2l(stage, smallest).rank(pool, np.random.default_rng(0), toy.store).order
        of_seven = [int(row) for row in order if sources[row] == "seven"]
        assert last <= set(of_seven[4:])
        assert (last == set()) == bool(set(of_seven[:3]) & {2, 4, 6})
        for budget in range(1, 12):
            taken = [sources[row] for row in order[:budget]]
            quotas = even_quotas(np.array([4, 7]), budget).tolist()
            assert [taken.count("four"), taken.count("seven")] == quotas


def test_s2l_draws_inside_a_cluster(toy):
    clusters = LossClusters(
        toy.pool,
        Answers(toy.proxy, ScorerSettings(batch_tokens=512, shard_rows=11)),
        k=2,
        per_source=False,
    )
    labels = np.load(toy.store.get(clusters) / "labels.npy")
    assert set(labels.tolist()) == {0, 1}
    firsts = {int(rank(toy, S2l(clusters), seed).order[0]) for seed in range(200)}
    larger = int(np.argmax(np.bincount(labels)))
    assert firsts == set(np.flatnonzero(labels == larger).tolist())


def test_loss_clusters_hold_like_trajectories_and_leave_out_rows_without_a_loss(toy, drawn):
    values = np.zeros((ROWS, 5))
    losses = np.zeros((ROWS, 3))
    losses[10:30] += [4, 1, 0]
    losses[17] = NAN
    drawn = drawn(values, losses)
    clusters = LossClusters(toy.pool, drawn, k=2, per_source=False)
    labels = np.load(toy.store.get(clusters) / "labels.npy")
    assert labels[17] == -1
    high = [row for row in range(10, 30) if row != 17]
    assert len(set(labels[high])) == 1
    assert set(np.delete(labels, [*high, 17])) == {1 - labels[10]}
    ranked = rank(toy, S2l(clusters))
    assert ranked.order[-1] == 17
    whole = LossClusters(toy.pool, drawn, k=100)  # more than any source has rows
    alone = np.load(toy.store.get(whole) / "labels.npy")
    assert sorted(alone.tolist())[:2] == [-1, 0]


# The configuration.

SELECTORS = ("aum", "el2n", "learnability", "perplexity", "s2l")


def test_one_pass_serves_all_selectors_that_ask_the_proxy(toy, toy_selector, tmp_path):
    store = shared(toy, tmp_path)
    for name in SELECTORS:
        toy_selector(name).rank(toy.pool, np.random.default_rng(0), store)
    assert len(list((tmp_path / "answers").glob("[!.]*/meta.json"))) == 1
    assert len(list((tmp_path / "proxy").glob("[!.]*/meta.json"))) == 1
    assert not (tmp_path / "target").exists()


def test_necessity_needs_no_fit_of_its_own(toy, toy_selector, tmp_path):
    store = shared(toy, tmp_path)
    ranked = toy_selector("necessity").rank(toy.pool, np.random.default_rng(0), store)
    kinds = {path.name for path in tmp_path.iterdir()}
    assert "answers" in kinds
    assert not kinds & {"proxy", "target"}
    assert (ranked.scores[list(TEXT_ONLY)] == 0).all()


def test_the_target_that_is_asked_is_the_reference(compose):
    cfg = compose()
    asked = build(cfg.features.target_answers).model
    assert key(asked) == key(build(cfg.reference).targets()[0])
    assert isinstance(asked.subset, Subset)


def test_perplexity_and_learnability_may_ask_the_target(toy, toy_selector):
    more = "selector.answers=${features.target_answers}"
    for name in ("perplexity", "learnability"):
        selector = toy_selector(name, more)
        ranked = rank(toy, selector)
        assert sorted(ranked.order.tolist()) == list(range(ROWS))
        assert selector.answers.model.kind == "target"
    assert np.nanmean(ranked.scores) > 0.1  # the fit lowers losses


def test_a_sweep_over_k_reaches_s2l(compose, toy_selector):
    assert toy_selector("s2l", "clusters.answers.k=7").clusters.k == 7
    assert toy_selector("s2l").clusters.k == 3
    assert compose("~experiment").clusters.answers.k == 100  # the release's


# What they are estimated to cost.


def test_the_estimate_of_answers_is_about_what_is_done(toy, tmp_path):
    """FLOPs as torch counts them, fused attention left out; bytes as they lie on disk."""
    toy.store.get(toy.proxy)
    store = shared(toy, tmp_path, "proxy")
    stage = Answers(toy.proxy, ScorerSettings(batch_tokens=512, shard_rows=11))
    planned = planned_stages(stage)
    assert {"proxy", "tokens", "vision", "answers"} <= {each.kind for each in planned}
    context = Context(store, toy.proxy.hardware, Assumed(), (toy.proxy.tokens(),))
    told = work(stage, context)
    with FlopCounterMode(display=False) as counter:
        folder = store.get(stage)
    census, shape = context.census(toy.proxy.tokens()), shape_of(toy.proxy.start)
    seen, blind = (answers_load(census, 16, 256, images=images) for images in (True, False))
    unseen = flops.attention(shape.decoder, 3 * seen.squares + blind.squares)
    assert 0.02 * told.flops < unseen < 0.3 * told.flops
    assert told.flops - unseen == pytest.approx(counter.get_total_flops(), rel=0.05)
    written = sum(path.stat().st_size for path in folder.rglob("*.npy"))
    assert told.disk == pytest.approx(written - 128 * 5, rel=0.05)  # numpy's headers
    assert "41 rows at 3 snapshots" in told.what


def test_every_selector_by_losses_is_planned_whole(toy, toy_selector):
    fits = {"learnability": 1, "necessity": 0, "perplexity": 1, "s2l": 1}
    for name, proxies in fits.items():
        kinds = [stage.kind for stage in planned_stages(Ranking(toy.pool, toy_selector(name)))]
        assert kinds.count("proxy") == proxies
        assert kinds.count("tokens") >= 1
        assert kinds[-1] == "ranking"
