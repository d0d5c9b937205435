"""Batches: padding that nothing reads, and an order that keeps kinds and lengths together."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from toy import Toy

from xmas.models.chat.alike_order import alike_order
from xmas.models.chat.batches import Loader, collate, micro_batches, modality_length_order
from xmas.models.chat.labels import IGNORED, Tokens
from xmas.models.chat.layout import FEATURE, Fixed

IMAGE = 900  # the image token
PAD = 7  # a token that stands in texts too


def tokens(ids: list[int], answered: list[int], image_at: int = -1) -> Tokens:
    labelled = np.isin(np.arange(len(ids)), answered)
    places, images = ((image_at,), (Fixed(3).tokens(None),)) if image_at >= 0 else ((), ())
    return Tokens(np.array(ids, dtype=np.int32), labelled, places, images)


HELD = [
    tokens([1, 7, 12, 13], [2, 3], image_at=2),
    tokens([1, 21], [1]),
    tokens([1, 31, 7, 33, 7], [4], image_at=1),
]


def pictures(rows: list[int]) -> dict[str, torch.Tensor]:
    """Named by their rows, so that a test sees which were asked for and in what order."""
    return {"features": torch.tensor(rows, dtype=torch.float32)[:, None, None].expand(-1, 3, 2)}


def batch_of(rows=(40, 41, 42)):
    return collate(rows, HELD, image_token=IMAGE, pad=PAD, pictures=pictures)


def test_rows_are_padded_on_the_right_with_the_image_in_its_place():
    batch = batch_of()
    assert batch.ids.tolist() == [
        [1, 7, IMAGE, IMAGE, IMAGE, 12, 13, PAD],
        [1, 21, PAD, PAD, PAD, PAD, PAD, PAD],
        [1, IMAGE, IMAGE, IMAGE, 31, 7, 33, 7],
    ]
    n = IGNORED
    assert batch.labels.tolist() == [
        [n, n, n, n, n, 12, 13, n],
        [n, 21, n, n, n, n, n, n],
        [n, n, n, n, n, n, n, 7],
    ]
    assert batch.image_start.tolist() == [2, -1, 1]
    assert batch.image_length.tolist() == [3, 0, 3]
    assert batch.rows.tolist() == [40, 41, 42]


def test_marks_stand_between_the_features_of_an_image():
    row_tokens = tokens([1, 12, 13], [1], image_at=1)
    marked = dataclasses.replace(
        row_tokens, images=(np.array([50, FEATURE, FEATURE, 51, FEATURE]),)
    )
    batch = collate([4, 9], [marked, HELD[0]], image_token=IMAGE, pad=PAD, pictures=pictures)
    assert batch.ids.tolist() == [
        [1, 50, IMAGE, IMAGE, 51, IMAGE, 12, 13],
        [1, 7, IMAGE, IMAGE, IMAGE, 12, 13, PAD],
    ]
    assert batch.labels[0].tolist() == [IGNORED] * 6 + [12, IGNORED]
    assert batch.image_start.tolist() == [1, 2]
    assert batch.image_length.tolist() == [5, 3]


def test_the_mask_comes_from_lengths_not_from_the_pad_token():
    batch = batch_of()
    assert batch.mask.tolist() == [[True] * 7 + [False], [True] * 2 + [False] * 6, [True] * 8]
    assert (batch.ids == PAD)[batch.mask].sum() == 3  # texts hold the pad token as well


def test_pictures_are_asked_for_by_the_rows_with_an_image_in_order():
    assert batch_of(rows=(8, 3, 5)).pictures["features"][:, 0, 0].tolist() == [8, 5]
    alone = collate([3], [HELD[1]], image_token=IMAGE, pad=PAD, pictures=lambda rows: 1 / 0)
    assert alone.pictures == {}


def test_a_batch_moves_with_all_its_tensors():
    moved = batch_of().to(torch.device("meta"))
    fields = [*vars(moved).values(), *moved.pictures.values()]
    devices = {field.device.type for field in fields if isinstance(field, torch.Tensor)}
    assert devices == {"meta"}
    assert len(moved.pictures) == 1


def random_rows(seed: int, cases: int):
    """Lengths and kinds of random pools, and a global batch for each."""
    rng = np.random.default_rng(seed)
    for _ in range(cases):
        count = int(rng.integers(1, 90))
        has_image = rng.random(count) < rng.choice([0.0, 0.5, 0.9, 1.0])
        micro, world = int(rng.integers(1, 6)), int(rng.integers(1, 5))
        yield rng.integers(1, 50, size=count), has_image, micro, world


def test_every_row_stands_in_the_order_once():
    for lengths, has_image, micro, world in random_rows(seed=1, cases=200):
        order = modality_length_order(
            lengths, has_image, micro=micro, world=world, rng=np.random.default_rng(0)
        )
        assert sorted(order) == list(range(len(lengths)))


def test_micro_batches_are_of_one_kind_but_for_the_last_mega_batch():
    mixed = 0
    for lengths, has_image, micro, world in random_rows(seed=2, cases=300):
        order = modality_length_order(
            lengths, has_image, micro=micro, world=world, rng=np.random.default_rng(0)
        )
        images, texts = int(has_image.sum()), int((~has_image).sum())
        mega = micro * world
        last = 0
        if images and texts:  # what is left of either kind, a whole mega-batch where nothing is
            last = ((images - 1) % mega + 1) + ((texts - 1) % mega + 1)
        whole = len(order) - last
        assert whole % mega == 0 or not (images and texts)
        for start in range(0, whole, micro):
            assert len(set(has_image[order[start : start + micro]])) == 1
        assert (np.diff(order[whole:]) > 0).all()  # the last mega-batch stands in row order
        mixed += bool(last)
    assert mixed > 100


def test_alike_microbatches_have_every_row_once_and_one_kind_but_for_the_last_step():
    other_orders = 0
    for lengths, has_image, micro, world in random_rows(seed=5, cases=200):
        images = np.where(has_image, lengths // 2, 0)
        orders = [
            alike_order(
                lengths, images, has_image, micro=micro, world=world, tower=True,
                rng=np.random.default_rng(seed),
            )
            for seed in (0, 0, 1)
        ]  # fmt: skip
        assert sorted(orders[0]) == list(range(len(lengths)))
        assert orders[0].tolist() == orders[1].tolist()
        other_orders += orders[0].tolist() != orders[2].tolist()
        mega = micro * world
        last = int(has_image.sum()) % mega + int((~has_image).sum()) % mega
        for start in range(0, len(lengths) - last, micro):
            assert len(set(has_image[orders[0][start : start + micro]])) == 1
    assert other_orders > 100  # of 200; where rows fill less than a step, no seed matters


def test_alike_microbatches_by_hand():
    """Four steps of two microbatches of two rows: neighbours in length, in a step as well."""
    lengths = np.array([7, 90, 31, 8, 88, 30, 60, 61, 9, 91, 33, 10, 92, 34, 62, 63])
    images = np.zeros_like(lengths)
    every = {"micro": 2, "world": 2, "rng": np.random.default_rng(4)}
    order = alike_order(lengths, images, np.ones(16, dtype=bool), tower=False, **every)
    steps = lengths[order].reshape(4, 2, 2).tolist()
    assert sorted(steps) == [
        [[10, 9], [8, 7]], [[34, 33], [31, 30]], [[63, 62], [61, 60]], [[92, 91], [90, 88]],
    ]  # fmt: skip
    assert steps != sorted(steps)
    # The second microbatch pads less, but its images keep the tower busy.
    images[[4, 1]] = 40
    order = alike_order(lengths, images, np.ones(16, dtype=bool), tower=True, **every)
    assert [[90, 88], [92, 91]] in lengths[order].reshape(4, 2, 2).tolist()


def test_alike_microbatches_pad_little_where_lengths_differ_tenfold():
    rng = np.random.default_rng(6)
    lengths = rng.choice([130, 420, 1300], size=2048) + rng.integers(0, 90, 2048)
    every = np.ones(2048, dtype=bool)
    pads = {}
    for name in ("alike", "balanced"):
        ours = name == "alike"
        options = {"micro": 8, "world": 16, "rng": np.random.default_rng(0)}
        order = (
            alike_order(lengths, lengths, every, tower=True, **options)
            if ours
            else modality_length_order(lengths, every, **options)
        )
        padded = 8 * lengths[order].reshape(-1, 8).max(axis=1).sum()
        pads[name] = 1 - lengths.sum() / padded
    assert pads["alike"] < 0.01
    assert pads["balanced"] > 0.3


def test_the_longest_rows_are_dealt_to_chunks_of_close_sums():
    """Every chunk gets the same number of rows, and sums differ by one row at most."""
    rng = np.random.default_rng(3)
    shuffled_worse = 0
    for _ in range(50):
        lengths = rng.integers(1, 100, size=24)
        order = modality_length_order(lengths, np.ones(24, dtype=bool), micro=6, world=4, rng=rng)
        sums = lengths[order].reshape(4, 6).sum(axis=1)
        assert np.ptp(sums) <= lengths.max()
        shuffled_worse += np.ptp(rng.permutation(lengths).reshape(4, 6).sum(axis=1)) > np.ptp(sums)
    assert shuffled_worse > 45


def test_a_mega_batch_is_dealt_by_hand():
    lengths = np.array([9, 8, 7, 3, 2, 1])
    order = modality_length_order(
        lengths, np.ones(6, dtype=bool), micro=3, world=2, rng=np.random.default_rng(0)
    )
    # 9 | 8; then 7 to the smaller sum, 8; then 3 to 9, 2 to 12; then that chunk is full.
    assert lengths[order].tolist() == [9, 3, 2, 8, 7, 1]


def test_a_mega_batch_that_does_not_divide_is_dealt_in_turns():
    lengths = np.array([5, 4, 3, 2, 1])
    order = modality_length_order(
        lengths, np.ones(5, dtype=bool), micro=4, world=2, rng=np.random.default_rng(0)
    )
    assert lengths[order].tolist() == [5, 3, 1, 4, 2]


def test_mega_batches_are_shuffled_but_the_mixed_one_stands_last():
    has_image = np.arange(34) < 20
    lengths = np.arange(1, 35)
    ends, firsts = set(), set()
    for seed in range(40):
        order = modality_length_order(
            lengths, has_image, micro=2, world=2, rng=np.random.default_rng(seed)
        )
        ends.add(tuple(has_image[order[28:]]))
        firsts.add(bool(has_image[order[0]]))
    assert firsts == {True, False}
    assert ends == {(True,) * 4 + (False,) * 2}  # 20 = 4 + 4 + 4 + 4 + 4, 14 = 4 + 4 + 4 + 2


def test_the_same_seed_gives_the_same_order_another_seed_another():
    lengths = np.random.default_rng(0).integers(1, 50, size=67)
    has_image = np.arange(67) % 5 > 0

    def order(seed: int) -> list[int]:
        rng = np.random.default_rng(seed)
        return modality_length_order(lengths, has_image, micro=4, world=2, rng=rng).tolist()

    assert order(3) == order(3) != order(4)


class Backwards:
    """Random numbers that are known: every permutation is the reversed order."""

    def permutation(self, count: int) -> np.ndarray:
        return np.arange(count)[::-1]


def llava_order(lengths: list[int], micro: int, world: int) -> list[int]:
    """LLaVA's `get_modality_length_grouped_indices` with reversed orders for its random ones.

    `lengths` are negative without an image, as there.
    """

    def chunks(indices: list[int], sizes: list[int]) -> list[list[int]]:
        if len(indices) % world:
            return [indices[start::world] for start in range(world)]
        shares, sums = [[] for _ in range(world)], [0.0] * world
        for index in indices:
            shortest = sums.index(min(sums))
            shares[shortest].append(index)
            sums[shortest] += sizes[index]
            if len(shares[shortest]) == len(indices) // world:
                sums[shortest] = float("inf")
        return shares

    def grouped(sizes: list[int]) -> list[int]:
        indices, size = list(range(len(sizes)))[::-1], micro * world
        megas = [indices[start : start + size] for start in range(0, len(sizes), size)]
        megas = [sorted(mega, key=lambda index: sizes[index], reverse=True) for mega in megas]
        return [index for mega in megas for chunk in chunks(mega, sizes) for index in chunk]

    pictured = [(index, size) for index, size in enumerate(lengths) if size > 0]
    text_only = [(index, -size) for index, size in enumerate(lengths) if size < 0]
    megas, last = [], []
    for kind in (pictured, text_only):
        order = [kind[index][0] for index in grouped([size for _, size in kind])]
        mega = [order[at : at + micro * world] for at in range(0, len(order), micro * world)]
        megas += mega[:-1]
        last += mega[-1]
    return [index for mega in [*megas[::-1], sorted(last)] for index in mega]


def test_the_order_is_llava_s():
    compared = 0
    for lengths, has_image, micro, world in random_rows(seed=4, cases=300):
        if has_image.all() or not has_image.any():
            continue
        ours = inspect.unwrap(modality_length_order)(
            lengths, has_image, micro=micro, world=world, rng=Backwards()
        )
        signed = np.where(has_image, lengths, -lengths).tolist()
        assert ours.tolist() == llava_order(signed, micro, world)
        compared += 1
    assert compared > 100


def test_with_one_kind_the_short_mega_batch_stands_last():
    """LLaVA's `get_length_grouped_indices` does not shuffle mega-batches; where the short one
    stands in the middle, every micro-batch behind it straddles two mega-batches.
    """
    lengths = np.arange(1, 12)
    for seed in range(20):
        order = modality_length_order(
            lengths, np.ones(11, dtype=bool), micro=2, world=2, rng=np.random.default_rng(seed)
        )
        for start in (0, 4):
            chunks = lengths[order[start : start + 4]]
            assert chunks[0] == chunks.max()  # a mega-batch starts here, longest first


def test_an_order_is_cut_into_micro_batches():
    order = np.array([4, 0, 3, 1, 2])
    assert [part.tolist() for part in micro_batches(order, 2)] == [[4, 0], [3, 1], [2]]


@pytest.fixture
def loader(toy: Toy) -> Loader:
    rows = np.random.default_rng(0).permutation(41)
    return Loader(
        toy.proxy.tokens().open(toy.store),
        micro_batches(rows, 4),
        image_token=IMAGE,
        pad=0,
        pictures=toy.vision.pictures(toy.store),
    )


def test_a_loader_goes_on_behind_what_was_consumed(loader: Loader):
    whole = [batch.rows.tolist() for batch in loader]
    assert [len(rows) for rows in whole] == [4] * 10 + [1]
    loader.consumed = 3
    state = loader.state_dict()
    again = dataclasses.replace(loader, consumed=0)
    again.load_state_dict(state)
    assert [batch.rows.tolist() for batch in again] == whole[3:]
    assert len(again) == 11  # of the epoch, not of what is left


def test_iterating_does_not_count_as_consuming(loader: Loader):
    """Prefetching runs ahead of training, so only the trainer knows."""
    next(iter(loader))
    assert loader.state_dict() == {"consumed": 0}


def test_iterating_leaves_the_global_random_numbers_alone(loader: Loader):
    before = torch.random.get_rng_state()
    list(loader)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12 and up
def test_workers_give_the_same_batches(loader: Loader):
    alone = list(loader)
    loader.workers = 2
    for batch, loaded in zip(alone, loader, strict=True):
        assert batch.rows.tolist() == loaded.rows.tolist()
        assert torch.equal(batch.ids, loaded.ids)
        assert batch.pictures.keys() == loaded.pictures.keys()
        assert all(
            torch.equal(batch.pictures[name], loaded.pictures[name]) for name in batch.pictures
        )
