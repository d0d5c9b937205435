"""Quality and diversity, and self-supervised prototypes, on features worked out by hand."""

import dataclasses
import json

import numpy as np
import pytest
from given import given

from xmas.data.pool import Pool
from xmas.selection.methods.column import Column
from xmas.selection.methods.quality_diversity import QualityDiversity
from xmas.selection.methods.self_sup import SelfSup
from xmas.selection.protocol import Ranked
from xmas.store import Store

NAN = float("nan")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def rated(tmp_path):
    """A function that gives a pool of rows with these ratings."""

    def make(ratings: list[float | None]) -> Pool:
        talk = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]
        records = [{"conversations": talk, "rating": rating} for rating in ratings]
        (tmp_path / "rated.json").write_text(json.dumps(records))
        return Pool(str(tmp_path / "rated.json"), str(tmp_path))

    return make


def rank(selector, pool: Pool, store: Store, seed: int = 0) -> Ranked:
    return selector.rank(pool, np.random.default_rng(seed), store)


# East and west of the mean (0, 0) three times, north and south once.
FEATURES = [[2.0, 0], [1, 0], [0, 3], [-3, 0], [0, -3], [NAN, NAN]]


def test_quality_and_diversity_by_hand(rated, store, tmp_path):
    """Ratings 5, 5, 1, 2, 3. Row 0 first: 1 + 1. Then row 1 adds 1 + 0, row 2 0 + 1, row 3 .25 + 1,
    row 4 .5 + 1: row 4. Then row 3, then of rows 1 and 2, both 1.0, the lower.
    """
    pool = rated([5, 5, 1, 2, 3, 4])
    selector = QualityDiversity(Column("rating"), given(tmp_path, FEATURES))
    ranked = rank(selector, pool, store)
    assert ranked.order.tolist() == [0, 4, 3, 1, 2, 5]
    assert ranked.scores[:5].tolist() == [2.0, 1.0, 1.0, 1.25, 1.5]
    assert np.isnan(ranked.scores[5])
    half = rank(dataclasses.replace(selector, greedy=0.2), pool, store)
    assert half.order.tolist() == [0, 4, 3, 1, 2, 5]  # after row 0: 1.5, 1.25, then 1.0 twice
    assert half.scores[:5].tolist() == [2.0, 1.0, 1.0, 1.25, 1.5]


def test_features_are_centred(rated, store, tmp_path):
    """Far from the origin all cosines are nearly one; around the mean the rows are as above."""
    pool = rated([5, 5, 1, 2, 3, 4])
    moved = given(tmp_path, np.array(FEATURES) + 100)
    ranked = rank(QualityDiversity(Column("rating"), moved), pool, store)
    assert ranked.order.tolist() == [0, 4, 3, 1, 2, 5]


def test_a_row_without_a_rating_comes_last(rated, store, tmp_path):
    pool = rated([5, 5, None, 2, 3, 4])
    quality = Column("rating", missing="last")
    ranked = rank(QualityDiversity(quality, given(tmp_path, FEATURES)), pool, store)
    assert set(ranked.order[:4].tolist()) == {0, 1, 3, 4}
    assert np.flatnonzero(np.isnan(ranked.scores)).tolist() == [2, 5]


def test_a_rating_outside_the_scale_is_refused(rated, store, tmp_path):
    selector = QualityDiversity(Column("rating"), given(tmp_path, FEATURES))
    with pytest.raises(ValueError, match=r"rated\.json: row 1 is rated 7, outside 1 to 5.*highest"):
        rank(selector, rated([5, 7, 1, 2, 3, 4]), store)
    with pytest.raises(ValueError, match=r"row 2 has no rating"):
        selector.check(rated([5, 5, None, 2, 3, 4]), store)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lowest": 5.0}, "lowest=5.0 is not below selector.highest=5.0"),
        ({"greedy": 0.0}, "greedy=0.0 is not within"),
        ({"project": 0}, "project=0: give dimensions"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        QualityDiversity(Column("rating"), given(tmp_path, FEATURES), **options)


def test_a_projection_is_drawn_from_the_seed(rated, store, tmp_path):
    rng = np.random.default_rng(0)
    pool = rated(rng.integers(1, 6, 47).tolist())
    features = given(tmp_path, rng.normal(size=(47, 31)))
    selector = QualityDiversity(Column("rating"), features, project=5)
    orders = [rank(selector, pool, store, seed).order.tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


# Cluster 0 is around north-east: two rows along its axes, one on its diagonal.
POINTS = [[1.0, 0], [0, 5], [2, 2], [-1, 0], [NAN, NAN], [-3, 0]]
LABELS = [0, 0, 0, 1, 2, 1]
APART = 1 - 0.5**0.5


@pytest.mark.parametrize(("keep", "first"), [("hard", [0, 1]), ("easy", [2, 3, 5])])
def test_rows_far_from_their_prototype_first_or_last(store, tmp_path, keep, first):
    selector = SelfSup(given(tmp_path, POINTS), given(tmp_path, LABELS, "labels"), keep=keep)
    ranked = rank(selector, Pool("/dev/null", "."), store)
    sign = 1 if keep == "hard" else -1
    expected = np.array([APART, APART, 0, 0, NAN, 0]) * sign
    np.testing.assert_allclose(ranked.scores, expected, atol=1e-6)
    assert set(ranked.order[: len(first)].tolist()) == set(first)
    assert ranked.order[-1] == 4
    assert ranked.clusters.tolist() == LABELS


def test_no_other_order_of_prototypes(store, tmp_path):
    selector = SelfSup(given(tmp_path, POINTS), given(tmp_path, LABELS, "labels"), keep="far")
    with pytest.raises(ValueError, match="keep 'far': expected one of hard, easy"):
        rank(selector, Pool("/dev/null", "."), store)
