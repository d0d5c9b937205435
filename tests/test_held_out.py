"""Rows held out of a pool: no near copy on both sides, the other rows a pool like any other."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import shards
import toy
from PIL import Image

from xmas.data.held_out import HeldOutSplit, HoldOut
from xmas.data.images.broken import broken_images
from xmas.data.indexes.index import Shown
from xmas.data.near_copies.near_groups import near_groups
from xmas.data.near_copies.sides import HELD_OUT, LEFT_OUT, POOL, drawn, listed
from xmas.data.pool import Pool
from xmas.data.rows import PoolError
from xmas.selection.methods.column import Column
from xmas.selection.methods.random import Random
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Store, key
from xmas.store.feasible import check_all

LETTERS = "abcdefghijkl"
# Rows and what they show. c2 is c, saved anew; d2 is d at half its size: 2-3 and 4-5 and, through
# the row with both, 6 with 5 are near copies. 8 and 9 say nearly the same without a picture.
SHOWN = (
    ["a"], ["b"], ["c"], ["c2"], ["d"], ["d2"], ["e", "d2"], ["f"], [], [], [], ["a"],
)  # fmt: skip
GROUPS = [0, 1, 2, 2, 4, 4, 4, 7, 8, 8, 10, 0]


def picture(letter: str) -> Image.Image:
    """Coarse noise, another for every letter."""
    rng = np.random.default_rng(ord(letter))
    noise = rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((90, 90), Image.Resampling.NEAREST)


def save(folder: Path) -> None:
    folder.mkdir()
    for letter in "abcdef":
        picture(letter).save(folder / f"{letter}.png")
    encoded = io.BytesIO()
    picture("c").save(encoded, "JPEG", quality=40)
    (folder / "c2.png").write_bytes(encoded.getvalue())
    picture("d").resize((45, 45)).save(folder / "d2.png")


def record(row: int) -> dict[str, object]:
    names = [f"{name}.png" for name in SHOWN[row]]
    if names:
        asked = "<image>" * len(names) + f"\nWhat is {LETTERS[row]}?"
        return {"id": row, "image": names, "conversations": toy.turns(asked, f"It is {row}.")}
    words = {8: "one two three four five six seven eight nine ten", 10: "Something else"}
    text = words.get(row, words[8] + " eleven")
    return {"id": row, "conversations": toy.turns(text, "Yes.")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("held_out")
    save(folder / "images")
    (folder / "pool.json").write_text(json.dumps([record(row) for row in range(len(SHOWN))]))
    return folder


@pytest.fixture(scope="module")
def store(folder) -> Store:
    return Store(str(folder / "store"))


def pool_of(folder: Path, **how: object) -> Pool:
    how = {"share": 0.34, "similarity": 0.7} | how
    return Pool(
        str(folder / "pool.json"), str(folder / "images"), hold_out=HoldOut(**how)  # type: ignore[arg-type]
    )  # fmt: skip


def split_of(pool: Pool) -> HeldOutSplit:
    assert pool.held_out_split is not None
    return pool.held_out_split


def test_groups_are_of_near_pictures_or_near_texts(folder, store):
    split = split_of(pool_of(folder))
    record = json.loads((store.get(split) / "split.json").read_text())
    assert (record["groups"], record["largest_group"]) == (7, 3)
    for seed in range(5):
        held_out = split_of(pool_of(folder, seed=seed))
        inside = set(held_out.numbers(store, "held_out.npy").tolist())
        assert 0 < len(inside) <= 4  # 0.34 of 12
        names = {GROUPS[row] for row in inside}
        assert inside == {row for row in range(12) if GROUPS[row] in names}
        assert held_out.groups(store).tolist() == [GROUPS[row] for row in sorted(inside)]
        rest = held_out.numbers(store, "pool.npy").tolist()
        assert sorted([*inside, *rest]) == [*range(12)]


def test_near_groups_by_hand():
    shown = Shown(np.array([0, 1, 1, 3, 4, 4]), np.array([0, 1, 2, 3]))
    hashes = np.array([[0, 0], [0, 1], [9, 9], [2**64 - 1, 0]], dtype=np.uint64)
    sketches = np.arange(5 * 64, dtype=np.uint32).reshape(5, 64)
    sketches[4] = sketches[1]
    groups = near_groups(shown, hashes, sketches, distance=1, similarity=0.8)
    assert groups.tolist() == [0, 1, 0, 3, 1]  # 0 and 2 by a picture one bit away
    groups = near_groups(shown, hashes, sketches, distance=0, similarity=0.8)
    assert groups.tolist() == [0, 1, 2, 3, 1]


def test_whole_groups_are_drawn_while_they_fit():
    groups = np.array([0, 0, 2, 3, 3, 3, 6])
    for seed in range(20):
        sides = drawn(groups, 3, np.random.default_rng(seed))
        inside = np.flatnonzero(sides == HELD_OUT).tolist()
        assert inside in ([0, 1, 2], [0, 1, 6], [3, 4, 5], [2, 6])
    likely = np.mean([drawn(groups, 3, np.random.default_rng(s)) for s in range(400)], axis=0)
    assert likely.min() > 0.2
    assert (drawn(groups, 0, np.random.default_rng(0)) == POOL).all()


def test_near_copies_of_listed_rows_are_left_out():
    sides = listed(np.array([0, 0, 2, 3, 3, 3, 6]), np.array([1, 6]))
    assert sides.tolist() == [LEFT_OUT, HELD_OUT, POOL, POOL, POOL, POOL, HELD_OUT]


def test_the_same_seed_gives_the_same_rows_and_key(folder, store, tmp_path):
    pools = [pool_of(folder, seed=seed) for seed in (0, 0, 1)]
    assert key(split_of(pools[0])) == key(split_of(pools[1])) != key(split_of(pools[2]))
    other = Store(str(tmp_path / "other"))
    numbers = [split_of(pools[0]).numbers(kept, "held_out.npy").tolist() for kept in (store, other)]
    assert numbers[0] == numbers[1]


def test_the_rest_is_a_pool_of_its_own_with_the_rows_of_the_file(folder, store):
    pool = pool_of(folder)
    numbers = split_of(pool).numbers(store, "pool.npy")
    rows = pool.open(store)
    whole = pool.whole.open(store)
    assert pool.open(store) is rows  # kept
    assert len(rows) == len(numbers) < len(whole) == 12
    assert [rows[row]["id"] for row in range(len(rows))] == numbers.tolist()
    assert [rows.file_row(row) for row in range(len(rows))] == numbers.tolist()
    subset = Subset(Ranking(pool, Random()), rows=3, text_only="ranked")
    made = store.get(subset)
    chosen = json.loads((made / "rows.json").read_text())
    in_file = json.loads((made / "file_rows.json").read_text())
    assert in_file == numbers[chosen].tolist()
    records = json.loads((made / "instructions.json").read_text())
    assert records == [json.loads((folder / "pool.json").read_text())[row] for row in in_file]
    manifest = json.loads((made / "manifest.json").read_text())
    assert (manifest["pool_rows"], manifest["held_out"]) == (len(rows), 12 - len(rows))


def test_a_file_of_rows_is_held_out_and_its_near_copies_are_in_neither(folder, store, tmp_path):
    (tmp_path / "rows.json").write_text("[3, 8, 7]")
    split = split_of(pool_of(folder, rows=str(tmp_path / "rows.json")))
    assert split.numbers(store, "held_out.npy").tolist() == [3, 7, 8]
    assert split.numbers(store, "pool.npy").tolist() == [0, 1, 4, 5, 6, 10, 11]
    record = json.loads((store.get(split) / "split.json").read_text())
    assert record["left_out"] == 2  # 2, the picture of 3, and 9, the text of 8


def test_skipped_rows_keep_the_numbers_of_the_file(folder, tmp_path):
    (tmp_path / "images").mkdir()
    for file in (folder / "images").iterdir():
        (tmp_path / "images" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "images" / "b.png").write_bytes(b"broken")
    (tmp_path / "rows.json").write_text("[7]")
    pool = dataclasses.replace(
        Pool(str(folder / "pool.json"), str(tmp_path / "images"), invalid="skip"),
        hold_out=HoldOut(rows=str(tmp_path / "rows.json"), similarity=0.7),
    )
    at_once = {"invalid": "skip", "hold_out": pool.held_out_split.how}
    assert Pool(str(folder / "pool.json"), str(tmp_path / "images"), **at_once) == pool
    store = Store(str(tmp_path / "store"))
    split = split_of(pool)
    assert split.numbers(store, "held_out.npy").tolist() == [7]
    assert split.numbers(store, "pool.npy").tolist() == [0, 2, 3, 4, 5, 6, 8, 9, 10, 11]
    subset = Subset(Ranking(pool, Random()), fraction=1.0, text_only="ranked")
    made = store.get(subset)
    assert json.loads((made / "file_rows.json").read_text()) == [0, *range(2, 7), *range(8, 12)]
    assert json.loads((made / "manifest.json").read_text())["skipped"]["rows"] == 1
    (tmp_path / "rows.json").write_text("[1, 7]")
    with pytest.raises(PoolError, match="1 of 2 rows are not in the pool of 11, the first is 1"):
        store.get(split_of(pool))


def test_rows_of_shards_are_held_out(tmp_path):
    """Pictures of one colour have one hash: the nine rows with any are a group."""
    pytest.importorskip("datasets")
    folder = shards.write(tmp_path / "shards", shards.message_record)
    (tmp_path / "rows.json").write_text("[3, 9]")
    pool = Pool(str(folder), hold_out=HoldOut(rows=str(tmp_path / "rows.json")))
    store = Store(str(tmp_path / "store"))
    split = split_of(pool)
    assert json.loads((store.get(split) / "split.json").read_text())["largest_group"] == 9
    assert split.numbers(store, "held_out.npy").tolist() == [3, 9]
    subset = Subset(Ranking(pool, Random()), rows=4, text_only="ranked")
    in_file = json.loads((store.get(subset) / "file_rows.json").read_text())
    assert not {3, 9} & set(in_file)
    said = [messages[-1]["content"] for messages in subset.dataset(store)["messages"]]
    assert said == [f"No. {row}" for row in in_file]


def test_scores_in_a_file_are_by_the_row_of_the_file(folder, store, tmp_path):
    """Row 11, the best, is held out with row 0, whose picture it shows."""
    (tmp_path / "rows.json").write_text("[0, 11]")
    (tmp_path / "scores.csv").write_text("row,score\n" + "".join(f"{n},{n}\n" for n in range(12)))
    pool = pool_of(folder, rows=str(tmp_path / "rows.json"))
    ranking = Ranking(pool, Column(file=str(tmp_path / "scores.csv")))
    best = Ranking.read(store.get(ranking)).order[:2]
    assert pool.file_rows(store, best).tolist() == [10, 9]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[3, 99]", "1 of 2 rows are not in the pool of 12, the first is 99"),
        ('{"rows": [3]}', "expected a JSON list of row numbers"),
        ("[true]", "expected a JSON list of row numbers"),
        ("3, 4", "no JSON"),
        ("[]", "0 of 12 rows of .* are listed, .* 12 are left to choose from"),
        (json.dumps([*range(12)]), "12 of 12 rows .* 0 are left to choose from; list some"),
    ],
)
def test_a_file_that_lists_no_part_of_the_rows_is_refused(folder, store, tmp_path, text, message):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(PoolError, match=message):
        store.get(split_of(pool_of(folder, rows=str(tmp_path / "rows.json"))))


def test_a_share_of_less_than_a_group_is_refused(folder, store):
    with pytest.raises(PoolError, match="12 rows are 7 groups of near copies, the smallest of 1"):
        store.get(split_of(pool_of(folder, share=0.05)))
    ranking = Ranking(pool_of(folder, share=0.05), Random())
    with pytest.raises(PoolError, match=r"share=0\.05 of its 12 rows is none; raise it"):
        check_all(ranking, store)  # before anything is hashed
    with pytest.raises(
        ValueError, match=r"hold_out\.share=1\.0: expected a number between 0 and 1"
    ):
        HoldOut(share=1.0)
    with pytest.raises(ValueError, match=r"hold_out\.most=0: expected 1 row or more"):
        HoldOut(most=0)


def test_shares_are_in_decimals_and_bounded():
    split = HeldOutSplit(Pool("pool.json", "images"), HoldOut(share=0.29, most=None))
    assert split.sizes(100) == {"held_out.npy": 29, "pool.npy": 71}
    split = HeldOutSplit(Pool("pool.json", "images"), HoldOut())
    assert split.sizes(665298) == {"held_out.npy": 2000, "pool.npy": 663298}


def test_faults_of_the_rest_are_named_by_the_row_of_the_file(folder, tmp_path):
    records = [record(row) for row in range(12)]
    records[11]["conversations"] = toy.turns("<image>\nWhat?", "")
    (tmp_path / "pool.json").write_text(json.dumps(records))
    (tmp_path / "rows.json").write_text("[1, 7]")
    pool = Pool(
        str(tmp_path / "pool.json"), str(folder / "images"),
        hold_out=HoldOut(rows=str(tmp_path / "rows.json")),
    )  # fmt: skip
    store = Store(str(tmp_path / "store"))
    rows = pool.open(store)
    assert rows.file_row(9) == 11
    image = folder / "images" / "a.png"
    content = image.read_bytes()
    image.write_bytes(b"broken")
    try:
        assert [fault.row for fault in broken_images(rows)] == [0, 11]
    finally:
        image.write_bytes(content)
