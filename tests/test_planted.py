"""Planted truths: every planted row is what its kind says, and every other one is as it was."""

import dataclasses
import io
import json
from collections import Counter

import noise_pool
import numpy as np
import pytest
from noise_pool import ROWS, TEXT_ONLY
from PIL import Image

from xmas.data.near_copies.duplicates import Duplicates
from xmas.data.planted.edits import AFTER, BEFORE, FILLER
from xmas.data.planted.planted_pool import PlantedPool
from xmas.data.planted.planting import (
    CLEAN,
    EMPTY,
    EXACT,
    INFLATED,
    KINDS,
    NEAR,
    ONE_TOKEN,
    ORIGINAL,
    PADDED,
    SWAPPED,
    WRONG_PICTURE,
    Planting,
)
from xmas.data.pool_sample import PoolSample
from xmas.data.rows import PoolError
from xmas.store import Store, key

SHARES = {
    "exact": 0.1, "near": 0.07, "inflated": 0.1, "swapped": 0.1, "wrong_picture": 0.1,
    "empty": 0.04, "one_token": 0.03, "padded": 0.06,
}  # fmt: skip


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return noise_pool.write(tmp_path_factory.mktemp("noise"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(str(tmp_path_factory.mktemp("planted") / "store"))


@pytest.fixture(scope="module")
def planted(pool):
    return PlantedPool(pool, Planting(**SHARES), seed=3)


@pytest.fixture(scope="module")
def opened(planted, store):
    """The pool's rows, the planted ones, and the plan."""
    return planted.pool.open(), planted.as_pool().open(store), planted.plan(store)


def content(picture) -> bytes:
    return picture if isinstance(picture, bytes) else picture.read_bytes()


def pictures(rows, row) -> list[bytes]:
    return [content(picture) for picture in rows.images_of(row)]


def answers(rows, row) -> list[str]:
    return [answer for _, answer in rows.conversation(row)]


def test_every_kind_has_its_share_of_the_rows_with_an_image(opened):
    _, rows, plan = opened
    count = Counter(KINDS[kind] for kind in plan.kinds.tolist())
    assert len(rows) == ROWS
    assert count["exact"] == count["original"] - count["near"] == 30
    assert count["near"] == 21
    assert count["inflated"] == 30
    assert count["wrong_picture"] == 30
    assert 25 <= count["swapped"] <= 30  # some are the only ones of their kind
    assert (count["empty"], count["one_token"], count["padded"]) == (12, 9, 18)
    assert (plan.kinds[:TEXT_ONLY] == CLEAN).all()
    assert plan.comparable.tolist() == [row >= TEXT_ONLY for row in range(ROWS)]


def test_clean_and_copied_rows_are_as_they_were(opened):
    own, rows, plan = opened
    for row in np.flatnonzero(np.isin(plan.kinds, (CLEAN, ORIGINAL))).tolist():
        assert rows.turns(row) == own.turns(row)
        assert rows[row] == own[row]
        assert rows.sources[row] == own.sources[row]
        if row % 5 == 0:
            assert pictures(rows, row) == pictures(own, row)


def test_exact_copies_are_found_by_the_hashes_of_their_files(planted, opened, store):
    _, _, plan = opened
    first = np.load(store.get(Duplicates(planted.as_pool())) / "exact.npy")
    copies = np.flatnonzero(plan.kinds == EXACT)
    assert (first[copies] == first[plan.groups[copies]]).all()
    others = np.setdiff1d(np.arange(ROWS), np.union1d(copies, plan.groups[copies]))
    assert (first[others] == others).all()
    assert len(np.unique(plan.groups[copies])) == len(copies)


def test_near_copies_have_another_file_and_the_same_answer(opened):
    own, rows, plan = opened
    for row in np.flatnonzero(plan.kinds == NEAR).tolist():
        of_row = int(plan.groups[row])
        assert plan.kinds[of_row] == ORIGINAL
        assert answers(rows, row) == answers(own, of_row)
        (asked, _), (question, _) = own.conversation(of_row)[0], rows.conversation(row)[0]
        assert question in [f"{before}{asked}{after}" for before in BEFORE for after in AFTER]
        assert question != asked
        assert rows.turns(row)[0].images == own.turns(of_row)[0].images
        image = Image.open(io.BytesIO(pictures(rows, row)[0]))
        assert image.format == "JPEG"
        before = Image.open(io.BytesIO(pictures(own, of_row)[0]))
        assert before.width - 3 <= image.width < before.width
        small = [np.asarray(of.convert("L").resize((4, 3)), float) for of in (before, image)]
        assert np.abs(small[0] - small[1]).mean() < 15


def test_a_source_is_made_ten_times_as_large(opened):
    own, rows, plan = opened
    members = np.flatnonzero(plan.kinds == INFLATED)
    assert set(Counter(plan.groups[members].tolist()).values()) == {10}
    assert set(rows.sources[members]) == {"charts"}  # the smallest
    groups = plan.groups[members]
    texts = {rows.conversation(int(row))[0][0] for row in members[groups == groups[0]]}
    assert len(texts) == 10
    assert pictures(rows, int(groups[0])) == pictures(own, int(groups[0]))


def test_swapped_answers_are_those_of_other_rows_of_the_source(opened):
    own, rows, plan = opened
    for row in np.flatnonzero(plan.kinds == SWAPPED).tolist():
        other = int(plan.answers[row])
        assert own.sources[other] == own.sources[row]
        assert answers(rows, row) == answers(own, other) != answers(own, row)
        assert [q for q, _ in rows.conversation(row)] == [q for q, _ in own.conversation(row)]
        assert pictures(rows, row) == pictures(own, row)


def test_wrong_pictures_are_those_of_other_rows_of_the_source(opened):
    own, rows, plan = opened
    for row in np.flatnonzero(plan.kinds == WRONG_PICTURE).tolist():
        other = int(plan.pictures[row])
        assert own.sources[other] == own.sources[row]
        assert pictures(rows, row) == pictures(own, other) != pictures(own, row)
        assert rows.turns(row) == own.turns(row)


def test_answers_are_empty_or_one_token_or_padded(opened):
    own, rows, plan = opened
    for row in np.flatnonzero(plan.kinds == EMPTY).tolist():
        assert set(answers(rows, row)) == {""}
    for row in np.flatnonzero(plan.kinds == ONE_TOKEN).tolist():
        assert set(answers(rows, row)) == {"."}
    for row in np.flatnonzero(plan.kinds == PADDED).tolist():
        (asked, answer), *others = own.conversation(row)
        longer = f"{asked} {FILLER} {FILLER} {FILLER}"
        assert rows.conversation(row) == [(longer, answer), *others]
        assert rows.turns(row)[0].images == own.turns(row)[0].images


def test_length_can_tell_the_noise(pool, store):
    planting = Planting(**{**SHARES, "length": "noise"})
    stage = PlantedPool(pool, planting, seed=3)
    plan, rows = stage.plan(store), stage.as_pool().open(store)
    assert (plan.padded == np.isin(plan.kinds, (SWAPPED, WRONG_PICTURE))).all()
    assert not (plan.kinds == PADDED).any()
    questions = [rows.conversation(row)[0][0] for row in np.flatnonzero(plan.padded).tolist()]
    assert all(question.endswith(FILLER) for question in questions)


def test_a_seed_decides_and_is_part_of_the_identity(planted, pool, store, tmp_path):
    again = dataclasses.replace(planted).plan(Store(str(tmp_path / "again")))
    plan = planted.plan(store)
    assert all(np.array_equal(of, getattr(again, name)) for name, of in vars(plan).items())
    other = dataclasses.replace(planted, seed=4)
    assert not np.array_equal(other.plan(store).kinds, plan.kinds)
    keys = {key(stage) for stage in (planted, other, PlantedPool(pool, Planting(), seed=3))}
    assert len(keys) == 3
    counts = json.loads((store.get(planted) / "planted.json").read_text())
    assert counts["near"] == 21


def test_a_pool_without_pictures_has_no_wrong_ones(store, tmp_path):
    pool = noise_pool.write(tmp_path, rows=TEXT_ONLY)
    planting = Planting(0.1, 0.1, 0, 10, 0.2, 0.2, 0.1, 0.1, 0)
    stage = PlantedPool(pool, planting)
    plan, rows = stage.plan(store), stage.as_pool().open(store)
    assert set(plan.kinds.tolist()) == {CLEAN, ORIGINAL, EXACT, NEAR, SWAPPED, EMPTY, ONE_TOKEN}
    assert plan.comparable.all()
    near = int(np.flatnonzero(plan.kinds == NEAR)[0])
    assert answers(rows, near) == answers(pool.open(), int(plan.groups[near]))


def test_impossible_shares_are_refused(pool, store):
    with pytest.raises(ValueError, match=r"planting\.exact=1\.5: expected a share"):
        Planting(exact=1.5)
    with pytest.raises(ValueError, match=r"rows that are copied, are 1\.15 of the pool"):
        Planting(exact=0.4, near=0.05)
    with pytest.raises(ValueError, match=r"planting\.length='short' is no choice"):
        Planting(length="short")
    none = dict.fromkeys(SHARES, 0.0)
    with pytest.raises(PoolError, match=r"planting\.exact=0\.001 of 307 rows is none; raise it"):
        store.get(PlantedPool(pool, Planting(**none | {"exact": 0.001})))
    with pytest.raises(PoolError, match=r"pool\.json: 2 rows are left for the 24 of planting"):
        store.get(PlantedPool(pool, Planting(**none | {"swapped": 0.92, "empty": 0.08})))


def test_a_sample_is_some_rows_of_a_pool_as_they_were(pool, store):
    sample = PoolSample(pool, 0.5, seed=2)
    rows, own = sample.as_pool().open(store), pool.open()
    numbers = sample.rows(store)
    assert len(rows) == sample.size(ROWS) == ROWS // 2
    assert (np.diff(numbers) > 0).all()
    for row in (0, 17, 101):
        assert rows.turns(row) == own.turns(int(numbers[row]))
        assert pictures(rows, row) == pictures(own, int(numbers[row]))
    assert PoolSample(pool, most=11).size(ROWS) == 11
    assert PoolSample(pool, 0.29).size(100) == 29
    with pytest.raises(ValueError, match=r"share=0: expected a number within"):
        PoolSample(pool, 0)
    with pytest.raises(PoolError, match=r"a share of 0\.001 of its 307 rows is none"):
        store.get(PoolSample(pool, 0.001))


def test_planted_rows_can_be_sampled_and_samples_planted(pool, store):
    sample = PoolSample(pool, most=211).as_pool()
    stage = PlantedPool(sample, Planting(), seed=1)
    part = PoolSample(stage.as_pool(), 0.5)
    rows, planted = part.as_pool().open(store), stage.as_pool().open(store)
    for row, number in enumerate(part.rows(store).tolist()):
        assert rows.turns(row) == planted.turns(number)
        assert pictures(rows, row) == pictures(planted, number)
