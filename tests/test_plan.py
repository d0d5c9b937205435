"""The order of a pass: every row once, pictures whole, batches within their budget."""

import itertools

import numpy as np
import pytest
from toy import ROWS, TEXT_ONLY, Toy

from xmas.attention.plan import changes, consecutive, length_batches, plan
from xmas.attention.spans import Spans
from xmas.data.rows import Shown

IMAGE = 11  # tokens


def spans_of(rows: int, seed: int, *, openings=(3,), pictures: int = 17) -> Spans:
    """Rows of random text lengths; a fifth of them without an image."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, pictures, rows)
    before = np.array(openings)[picture % len(openings)]
    textual = rng.random(rows) < 0.2
    return Spans(
        before=np.where(textual, 0, before),
        image=np.where(textual, 0, IMAGE),
        text=rng.integers(1, 90, rows),
        prefix=np.where(textual, -1, picture),
    )


def units_of(made) -> list:
    return [list(made.units(shard)) for shard in range(made.shards)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch_tokens", [1, 100, 577, 10**6])
@pytest.mark.parametrize("shared_from", [0.0, 0.2, 1.0])
def test_every_row_runs_once_and_within_the_budget(seed, batch_tokens, shared_from):
    spans = spans_of(211, seed, openings=(3, 7))
    measured = spans.prefix >= 0
    made = plan(spans, measured, batch_tokens=batch_tokens, shard_rows=37, shared_from=shared_from)
    assert sorted(made.order) == np.flatnonzero(measured).tolist()
    seen = []
    for shard, units in enumerate(units_of(made)):
        assert np.array_equal(np.concatenate([unit.rows for unit in units]), made.rows(shard))
        for unit in units:
            prefix_lengths = set(spans.up_to_image_end[unit.rows])
            assert len(prefix_lengths) == 1
            assert spans.prefix[unit.firsts].tolist() == np.unique(spans.prefix[unit.rows]).tolist()
            assert np.array_equal(spans.prefix[unit.firsts][unit.which], spans.prefix[unit.rows])
            seen += spans.prefix[unit.firsts].tolist()
            if unit.shared:
                assert (
                    len(unit.firsts) == 1 or len(unit.firsts) * prefix_lengths.pop() <= batch_tokens
                )
            in_batches = np.sort(np.concatenate(unit.batches))
            assert in_batches.tolist() == list(range(len(unit.rows)))
            for batch in unit.batches:
                lengths = spans.text[unit.rows[batch]]
                fixed = 0 if unit.shared else spans.up_to_image_end[unit.rows[0]]
                assert len(batch) == 1 or len(batch) * (fixed + lengths.max()) <= batch_tokens
                assert (lengths.max() * len(batch) - lengths.sum()) <= batch_tokens / 16
    assert len(seen) == len(set(seen))  # every picture is encoded once
    if shared_from in (0, 1):
        assert {unit.shared for units in units_of(made) for unit in units} == {shared_from == 0}


def test_prefixes_are_shared_where_that_saves_enough():
    """Two rows of 14 + 28 tokens save 14 of 84, a sixth; a picture shown once saves nothing."""
    spans = Spans(
        before=np.full(3, 3), image=np.full(3, 11), text=np.full(3, 28), prefix=np.array([5, 6, 5])
    )
    every = np.ones(3, dtype=bool)
    for shared_from, wanted in ((0.16, {5}), (0.17, set()), (0.0, {5, 6})):
        made = plan(spans, every, batch_tokens=999, shard_rows=9, shared_from=shared_from)
        units = units_of(made)[0]
        found = {int(one) for unit in units if unit.shared for one in spans.prefix[unit.rows]}
        assert found == wanted


def test_shards_are_of_the_asked_size_and_part_no_picture():
    spans = spans_of(503, 3, pictures=101)
    made = plan(spans, spans.prefix >= 0, batch_tokens=300, shard_rows=50, shared_from=0.05)
    sizes = np.diff(made.bounds)
    assert made.shards == 8
    assert sizes.sum() == len(made.order)
    largest = np.bincount(spans.prefix[spans.prefix >= 0]).max()
    assert (abs(sizes[:-1] - 50) <= largest).all()
    pictures = [set(spans.prefix[made.rows(shard)]) for shard in range(made.shards)]
    assert not any(one & other for one, other in itertools.combinations(pictures, 2))


def test_a_pool_without_a_measured_row_has_no_shard():
    spans = spans_of(13, 0)
    for make in (
        lambda none: plan(spans, none, batch_tokens=9, shard_rows=3, shared_from=0.0),
        lambda none: consecutive(spans, none, shard_rows=3),
    ):
        made = make(np.zeros(13, dtype=bool))
        assert made.shards == 0
        assert made.bounds.tolist() == [0]


def test_batches_by_length_by_hand():
    lengths = np.array([9, 2, 9, 3, 100])
    assert [batch.tolist() for batch in length_batches(lengths, 1, 32)] == [[1, 3], [0, 2], [4]]
    assert [batch.tolist() for batch in length_batches(lengths, 0, 10**6)] == [[1, 3, 0, 2, 4]]
    assert length_batches(lengths[:0], 1, 32) == []


def test_consecutive_rows_are_padded_by_ids_before_the_picture_is_put_in():
    """Row 0 has 77 ids, rows 1 and 2 have 3 + 1 + 5 and 3 + 1 + 6: 77 + 11 - 1 positions."""
    spans = Spans(
        before=np.array([0, 3, 3, 3, 3]), image=np.array([0, 11, 11, 11, 11]),
        text=np.array([77, 5, 6, 7, 8]), prefix=np.array([-1, 0, 0, 1, 2]),
    )  # fmt: skip
    made = consecutive(spans, spans.prefix >= 0, shard_rows=1, together=3)
    assert made.order.tolist() == [1, 2, 3, 4]
    assert made.bounds.tolist() == [0, 2, 4]
    units = [unit for units in units_of(made) for unit in units]
    assert [(unit.rows.tolist(), unit.width) for unit in units] == [([1, 2], 87), ([3, 4], 22)]
    assert not any(unit.shared for unit in units)
    cut = consecutive(spans, spans.prefix >= 0, shard_rows=1, together=3, max_length=61)
    assert [unit.width for units in units_of(cut) for unit in units] == [61, 22]


def test_an_image_row_next_to_a_long_text_has_the_length_of_the_specification():
    """132 ids, the picture one of them, and 700 of text alone: 1,275 positions."""
    spans = Spans(
        before=np.array([31, 0]), image=np.array([576, 0]),
        text=np.array([100, 700]), prefix=np.array([0, -1]),
    )  # fmt: skip
    ((unit,),) = units_of(consecutive(spans, spans.prefix >= 0, shard_rows=8, max_length=2048))
    assert unit.width == 1275


@pytest.mark.parametrize("shared_from", [0.0, 1.0])
def test_pictures_of_one_unit_have_their_tokens_at_the_same_places(shared_from):
    """36 + 82 and 3 + 115 tokens are 118 both, and cannot be one tensor."""
    spans = Spans(
        before=np.array([36, 3, 36, 3]), image=np.array([82, 115, 82, 115]),
        text=np.array([5, 6, 7, 8]), prefix=np.array([0, 1, 2, 3]),
    )  # fmt: skip
    measured = np.ones(4, dtype=bool)
    made = [
        plan(spans, measured, batch_tokens=10**6, shard_rows=9, shared_from=shared_from),
        consecutive(spans, measured, shard_rows=9),
    ]
    for units in (unit for one in made for unit in units_of(one)):
        assert [sorted(unit.rows.tolist()) for unit in units] in (
            [[0, 2], [1, 3]],
            [[1, 3], [0, 2]],
        )


def test_the_layout_of_a_table(toy: Toy):
    table = toy.proxy.tokens().open(toy.store)
    shown = toy.pool.open().shown
    picture, spans = shown.first, Spans.of(table, shown)
    assert (spans.up_to_image_end + spans.text == table.lengths).all()
    assert tuple(np.flatnonzero(spans.prefix < 0)) == TEXT_ONLY
    assert set(spans.image) == {0, 16}
    shown = np.flatnonzero(spans.prefix >= 0)
    same = spans.prefix[shown][:, None] == spans.prefix[shown][None]
    assert np.array_equal(same, picture[shown][:, None] == picture[shown][None])
    assert len(table) == ROWS


def test_rows_of_a_picture_with_other_tokens_in_front_do_not_share_a_prefix(toy: Toy):
    table = toy.proxy.tokens().open(toy.store)
    picture = np.where(toy.pool.open().has_image, 0, -1)  # one picture in all
    shown = Shown.single(picture)
    assert len(set(Spans.of(table, shown).prefix)) == 2  # and no picture
    changed = table._ids.copy()
    changed[table.offsets[5]] += 1
    table._ids = changed
    prefix = Spans.of(table, shown).prefix
    assert len(set(prefix)) == 3
    assert (prefix == prefix[5]).sum() == 1


def test_changes_by_hand():
    assert changes(np.array([4, 4, 1, 1, 4])).tolist() == [0, 2, 4]
    assert changes(np.array([], dtype=int)).tolist() == []
