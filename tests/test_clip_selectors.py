"""Baselines that look at a CLIP vector of every row, by hand and against brute force."""

import dataclasses

import numpy as np
import pytest
from given import given, given_clip
from toy import Toy

from xmas.cli.config import build
from xmas.data.pool import Pool
from xmas.features.clip.clip_model import PretrainedClip
from xmas.features.clip.clip_rows import ClipRows
from xmas.features.clustering.kmeans import Clusters
from xmas.features.clustering.neighbours import neighbours
from xmas.features.clustering.spherical import Spherical
from xmas.selection.methods.aum import Aum
from xmas.selection.methods.clip_score import ClipScore
from xmas.selection.methods.d2 import D2, gather, take_as_released, take_in_turn
from xmas.selection.methods.semdedup import Semdedup, members, nearest_earlier
from xmas.selection.methods.typiclust import Typiclust, typicality
from xmas.selection.protocol import Ranked
from xmas.selection.rules.best_first import best_first
from xmas.store import Store, describe

POOL = Pool("/dev/null", ".")  # the features are given
NAN = float("nan")
EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
SLANT = [0.8, 0.6]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "store"))


def rank(selector, store: Store, seed: int = 0) -> Ranked:
    return selector.rank(POOL, np.random.default_rng(seed), store)


def angles(*degrees: float) -> list[list[float]]:
    """Unit vectors in the plane, NaN for NaN."""
    return [[np.cos(np.radians(each)), np.sin(np.radians(each))] for each in degrees]


def test_every_selector_has_its_own_features_and_k(toy: Toy, compose):
    """Of the CLIP node; the k of the attention's clusters does not reach them."""
    ks = ("clip.k=3", "clip_directions.k=6", "trajectories.k=4")
    overrides = [*toy.overrides(), *(f"clusters.{k}" for k in ks)]
    cfgs = {
        name: compose(*overrides, f"selector={name}")
        for name in ("clip_score", "d2", "semdedup", "typiclust")
    }
    released = compose("features@features.clip=clip_released")
    local = compose("features@features.clip=clip_folder", "features.clip.clip.name=some/folder")
    built = {name: build(cfg.selector) for name, cfg in cfgs.items()}
    clip = build(cfgs["d2"].features.clip)
    rows = ClipRows(clip, "concat", "all")
    assert built["clip_score"] == built["d2"].importance == ClipScore(clip)
    for name in ("d2", "semdedup", "typiclust"):
        assert built[name].features == rows
    for name, kind, k in (("semdedup", Spherical, 6), ("typiclust", Clusters, 3)):
        assert built[name].clusters.features == rows
        assert (type(built[name].clusters), built[name].clusters.k) == (kind, k)
    assert build(released.features.clip).clip.name == "openai/clip-vit-base-patch32"
    assert build(local.features.clip).clip == PretrainedClip("some/folder")


def test_best_first_by_hand():
    scores = np.array([1.0, NAN, 3, 1, NAN, 2, NAN])
    orders = {tuple(best_first(scores, np.random.default_rng(s)).tolist()) for s in range(50)}
    assert {order[:4] for order in orders} == {(2, 5, 0, 3)}
    assert len({order[4:] for order in orders}) == 6


# CLIP-Score.


def test_clip_score_by_hand(tmp_path, store):
    turns = [[EAST, NORTH], [NORTH, NORTH], [EAST, EAST], [SLANT, SLANT], [EAST, WEST]]
    stage = given_clip(tmp_path / "clip", [EAST, NORTH], [0, 1, -1, 0, 1], turns)
    half = 0.5**0.5
    ranked = rank(ClipScore(stage), store)
    assert ranked.scores == pytest.approx([half, 1, NAN, 0.8, NAN], abs=1e-3, nan_ok=True)
    assert ranked.order[:3].tolist() == [1, 3, 0]
    assert ranked.clusters.tolist() == [-1] * 5
    asked = rank(ClipScore(stage, "human"), store)
    assert asked.scores == pytest.approx([1, 1, NAN, 0.8, 0], abs=1e-3, nan_ok=True)
    assert asked.order[:4].tolist() == [0, 1, 3, 4]
    answered = rank(ClipScore(stage, "gpt"), store)
    assert answered.scores == pytest.approx([0, 1, NAN, 0.8, 0], abs=1e-3, nan_ok=True)


def test_text_only_rows_follow_in_random_order(tmp_path, store):
    stage = given_clip(tmp_path / "clip", [EAST], [0, -1, -1, -1], [[EAST, EAST]] * 4)
    last = {tuple(rank(ClipScore(stage), store, seed).order[1:].tolist()) for seed in range(40)}
    assert len(last) == 6


# SemDeDup.


def test_the_nearest_earlier_point_by_brute_force():
    points = np.random.default_rng(0).standard_normal((53, 5)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    expected = [-1.0] + [max(points[:row] @ points[row]) for row in range(1, 53)]
    for block in (1, 7, 1024):
        assert nearest_earlier(points, block) == pytest.approx(expected, abs=1e-6)
    assert nearest_earlier(points[:0]).tolist() == []


def test_semdedup_by_hand(tmp_path, store):
    """Cluster 0: 0, 10, 14 and 60 degrees; the mean lies at about 20. Cluster 1: two copies."""
    values = angles(10, 200, 60, 0, NAN, 14, 200)
    labels = [0, 1, 0, 0, 2, 0, 1]
    selector = Semdedup(given(tmp_path, values), given(tmp_path, labels, "labels"))
    cosine = np.cos(np.radians([60, 10, 4]))
    # Farthest from the mean first: 60 (row 2), 0 (3), 10 (0), 14 (5).
    expected = [1 - cosine[1], 2, 2, 1 - cosine[0], NAN, 1 - cosine[2], 0]
    ranked = rank(selector, store)
    assert ranked.scores == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert ranked.order.tolist() == [1, 2, 3, 0, 5, 6, 4]
    assert ranked.clusters.tolist() == labels
    easy = rank(dataclasses.replace(selector, keep="easy"), store)
    # Nearest first: 14 (5), 10 (0), 0 (3), 60 (2), which is 46 from 14.
    cosine = np.cos(np.radians([4, 10, 46]))
    expected = [1 - cosine[0], 2, 1 - cosine[2], 1 - cosine[1], NAN, 2, 0]
    assert easy.scores == pytest.approx(expected, abs=1e-6, nan_ok=True)
    with pytest.raises(ValueError, match="keep 'soft': expected one of hard, easy"):
        rank(dataclasses.replace(selector, keep="soft"), store)


def test_every_threshold_of_semdedup_is_a_prefix(tmp_path, store):
    """What the release keeps at 1 − eps are the first rows of the ranking, for every eps."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((61, 3))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    labels = rng.integers(4, size=61)
    ranked = rank(Semdedup(given(tmp_path, values), given(tmp_path, labels, "labels")), store)
    for eps in (0.01, 0.05, 0.2, 0.7):
        kept = set()
        for cluster in range(4):
            rows = np.flatnonzero(labels == cluster)
            central = values[rows] @ values[rows].mean(axis=0)
            rows = rows[np.argsort(central, kind="stable")]
            alike = np.triu(values[rows] @ values[rows].T, 1)
            alike[np.tril_indices(len(rows))] = -1
            kept |= set(rows[alike.max(axis=0) <= 1 - eps].tolist())
        assert 4 <= len(kept) < 61
        assert set(ranked.order[: len(kept)].tolist()) == kept


def test_members_by_hand():
    groups = members(np.array([3, 0, 3, 5, 0]))
    assert [group.tolist() for group in groups] == [[1, 4], [0, 2], [3]]


# TypiClust.


def test_typicality_by_hand():
    points = np.array([[1, 0], [0, 1], [0.6, 0.8], [1, 0]], dtype=np.float32)
    apart = np.sqrt(2 - 2 * np.array([[1, 0, 0.6, 1], [0, 1, 0.8, 0], [0.6, 0.8, 1, 0.6]]))
    found = typicality(points, 2)
    assert found[1] == pytest.approx(2 / (apart[1, 2] + apart[1, 0]), rel=1e-5)
    assert found[2] == pytest.approx(2 / (apart[2, 1] + apart[2, 0]), rel=1e-5)
    assert found[0] == found[3] == pytest.approx(2 / (1e-4 + apart[0, 2]), rel=1e-5)  # a copy
    assert typicality(points[:1], 20).tolist() == [0]  # alone
    assert typicality(points, 20) == pytest.approx(typicality(points, 3))  # all there are


def test_typicality_by_brute_force():
    points = np.random.default_rng(0).standard_normal((47, 5)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    nearest = np.sort(apart, axis=1)[:, 1:8]  # the first is the point itself
    for block in (5, 1024):
        assert typicality(points, 7, block) == pytest.approx(1 / nearest.mean(axis=1), rel=1e-4)


def test_typiclust_takes_the_most_typical_of_every_cluster_in_turns(tmp_path, store):
    values = angles(0, 90, 5, 95, 12, NAN, 130, 40)
    labels = [0, 1, 0, 1, 0, 2, 1, 0]
    features, clusters = given(tmp_path, values), given(tmp_path, labels, "labels")
    ranked = rank(Typiclust(features, clusters, neighbours=2), store)
    # Cluster 0 at 0, 5, 12, 40: row 2 is 5 and 7 from its nearest two, row 0 5 and 12, row 4 7 and
    # 12, row 7 28 and 35. Cluster 1 at 90, 95, 130: row 3 5 and 35, row 1 5 and 40, row 6 35, 40.
    assert [row for row in ranked.order if labels[row] == 0] == [2, 0, 4, 7]
    assert [row for row in ranked.order if labels[row] == 1] == [3, 1, 6]
    assert [labels[row] for row in ranked.order] == [0, 1, 2, 0, 1, 0, 1, 0]
    assert np.flatnonzero(np.isnan(ranked.scores)).tolist() == [5]
    with pytest.raises(ValueError, match="neighbours=0: typicality needs at least 1"):
        rank(Typiclust(features, clusters, neighbours=0), store)


# D2-Pruning.


def test_messages_by_hand():
    near = np.array([[1, 2], [0, 2], [1, 0]])
    apart = np.array([[0.5, 1.0], [0.5, 2.0], [2.0, np.inf]])
    found = gather(np.array([3.0, -1.0, 2.0]), near, apart, gamma=1.0)
    small = 1e-7  # what is below counts as that
    assert found == pytest.approx(
        [
            3 + small * np.exp(-0.5) + 2 * np.exp(-1),
            small + 3 * np.exp(-0.5) + 2 * np.exp(-2),
            2 + small * np.exp(-2),
        ]
    )


def brute_force(
    importance: np.ndarray, points: np.ndarray, k: int, gammas: tuple[float, float]
) -> tuple[list[int], list[float]]:
    """Order and score at the time of taking, by a full pass over all that are left every time."""
    apart = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, axis=1, kind="stable")[:, :k]
    held = np.maximum(importance, 1e-7)
    score = [
        held[row] + sum(np.exp(-gammas[0] * apart[row, other]) * held[other] for other in near[row])
        for row in range(len(held))
    ]
    left, order, taken = set(range(len(held))), [], []
    while left:
        best = min(left, key=lambda row: (-score[row], row))
        left.remove(best)
        order.append(best)
        taken.append(score[best])
        for other in near[best]:
            if other in left:
                score[other] -= np.exp(-gammas[1] * apart[best, other]) * max(score[best], 0)
    return order, taken


@pytest.mark.parametrize("gammas", [(1.0, 0.4), (0.1, 3.0), (0.0, 0.0)], ids=str)
def test_d2_equals_brute_force(tmp_path, store, gammas):
    rng = np.random.default_rng(2)
    points = rng.standard_normal((67, 4))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    importance = rng.standard_normal(67)
    order, scores = brute_force(importance, points, 5, gammas)
    ranked = rank(D2(given(tmp_path, points), Told(importance.tolist()), 5, *gammas), store)
    assert ranked.order.tolist() == order
    assert ranked.scores[order] == pytest.approx(scores, rel=1e-4, abs=1e-6)
    assert min(scores) < 0 < max(scores)
    assert ranked.scores[order].tolist() == sorted(scores, reverse=True) or gammas[0] > 0


@dataclasses.dataclass(frozen=True)
class Told:
    """A ranking with given scores."""

    scores: list[float]

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        scores = np.array(self.scores)
        return Ranked(np.arange(len(scores)), scores, np.full(len(scores), -1))


def test_another_importance_is_named_on_the_command_line(toy: Toy, compose):
    cfg = compose(*toy.overrides(), "selector=d2", "selector@selector.importance=aum")
    assert build(cfg.selector).importance == Aum(build(cfg.features.answers))


def test_the_best_lowers_its_neighbours():
    """Row 0 is taken first; row 1, beside it, then falls behind row 2."""
    near, apart = np.array([[1], [0], [1]]), np.array([[0.0], [0.0], [9.0]])
    found = take_in_turn(np.array([5.0, 4, 3]), near, apart, gamma=1.0)
    assert found == pytest.approx([5, 4 - 5 - 3 * np.exp(-9), 3])
    assert best_first(found, np.random.default_rng(0)).tolist() == [0, 2, 1]


def test_the_stand_by_list_by_hand():
    """Each halves one other: 0 halves 1, 2 halves 4, 1 halves 5, and 5 halves 4; 3 none.

    Visited in order. 0 (10) is chosen: 1 is 9 - 5 = 4. 1 waits for 2 (8). 2 is chosen: 4 is
    6 - 4 = 2. 3 (7) is chosen. Before 4 (2) comes, 1 (4) is chosen: 5 is 5 - 2 = 3. 4 waits for
    5, which is chosen: 4 is 2 - 1.5. Exactly, 5 (5) would be chosen before 1 (4).
    """
    scores = np.array([10.0, 9, 8, 7, 6, 5])
    near = np.array([[1], [5], [4], [3], [4], [4]])
    apart = np.array([np.log(2)] * 3 + [np.inf] * 2 + [np.log(2)])[:, None]
    order, chosen_at = take_as_released(scores, near, apart, gamma=1.0)
    assert order.tolist() == [0, 2, 3, 1, 5, 4]
    assert chosen_at[order] == pytest.approx([10, 8, 7, 4, 3, 0.5])
    exact = best_first(take_in_turn(scores, near, apart, gamma=1.0), np.random.default_rng(0))
    assert exact.tolist() == [0, 2, 3, 5, 1, 4]


def as_released(
    scores: np.ndarray, near: np.ndarray, apart: np.ndarray, gamma: float
) -> tuple[list[int], list[float]]:
    """The release's loop by lists and maxima, from its description; no heap, no early exit."""
    score = scores.astype(float).copy()
    sorted_rows = [int(row) for row in np.argsort(scores)[::-1]]
    waiting: list[int] = []
    order: list[int] = []
    taken: list[float] = []
    while len(order) < len(score):
        best = max(waiting, key=lambda row: score[row]) if waiting else None
        if best is not None and (not sorted_rows or score[best] >= score[sorted_rows[0]]):
            row = best
            waiting.remove(row)
        else:
            row = sorted_rows.pop(0)
            if sorted_rows and score[row] < score[sorted_rows[0]]:
                waiting.append(row)
                continue
        order.append(row)
        taken.append(score[row])
        score[near[row]] = score[near[row]] - score[row] * np.exp(-apart[row] * gamma)
    return order, taken


@pytest.mark.parametrize("seed", range(3))
def test_d2_by_stand_by_equals_the_release_s_loop(tmp_path, store, seed):
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((400, 4))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    importance = rng.standard_normal(400)
    points[[7, 300]] = NAN
    features, scores = given(tmp_path, points), Told(importance.tolist())
    ranked = rank(D2(features, scores, stand_by=True), store)
    has = np.delete(np.arange(400), [7, 300])
    near, apart = neighbours(points[has].astype(np.float32), 5, lists=2048, probes=8)
    apart = apart.astype(float)
    held = gather(importance[has], near, apart, gamma=1.0)
    order, taken = as_released(held, near, apart, 0.4)
    assert ranked.order[:398].tolist() == has[order].tolist()
    assert ranked.scores[ranked.order[:398]] == pytest.approx(taken, rel=1e-4, abs=1e-5)
    assert set(ranked.order[398:]) == {7, 300}
    assert min(taken) < 0  # a score below zero raises its neighbours
    exact = rank(D2(features, scores), store).order
    assert len(set(exact[:80]) & set(ranked.order[:80])) < 60


def test_the_stand_by_list_is_another_ranking_and_leaves_the_keys_of_others(tmp_path, compose):
    assert build(compose("variant=d2_released").selector).stand_by
    selector = D2(given(tmp_path, [[1.0]]), Told([0.0]))
    assert "stand_by" not in describe(selector)
    released = dataclasses.replace(selector, stand_by=True)
    assert describe(released) == describe(selector) | {"stand_by": True}


def test_d2_leaves_rows_without_feature_or_importance_to_the_end(tmp_path, store):
    values = angles(0, NAN, 40, 90, 200)
    selector = D2(given(tmp_path, values), Told([1.0, 9, NAN, 3, 2]), neighbours=1)
    ranked = rank(selector, store)
    assert ranked.order[:3].tolist() == [3, 4, 0]
    assert np.isnan(ranked.scores).tolist() == [False, True, True, False, False]
