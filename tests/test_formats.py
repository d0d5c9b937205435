"""A pool format and a trainer's format are one file each: put into the package, they are used."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import DOCS, written
from toy import Toy

from xmas.cli.command import make
from xmas.cli.config import build
from xmas.data.pool import Pool
from xmas.data.readers.llava import LlavaRows
from xmas.data.rows import PoolError
from xmas.doctor.files import check_pool
from xmas.selection.methods.random import Random
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Store, key

ROUNDS = [
    {"picture": "a/1.png", "rounds": [["What?", "A fig."], ["And?", "No more."]]},
    {"picture": None, "rounds": [["Größe?", "Zwölf."]]},
    {"picture": "a/0.png", "rounds": [["Who?", "An owl."]]},
]


@pytest.fixture
def formats(tmp_path: Path) -> Iterator[None]:
    """The reader `lines` and the writer `pairs` of docs/add-a-pool-format.md, a file each."""
    with written(DOCS / "add-a-pool-format.md", tmp_path / "added"):
        yield


@pytest.fixture
def pool(tmp_path: Path, formats: None) -> Pool:
    path = tmp_path / "mix.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in ROUNDS))
    return Pool(str(path), str(tmp_path / "images"))


def test_a_new_pool_format_is_recognised_and_read(pool, tmp_path):
    rows = pool.open()
    assert len(rows) == 3
    assert rows.conversation(0) == [("What?", "A fig."), ("And?", "No more.")]
    assert rows.has_image.tolist() == [True, False, True]
    assert rows.picture_names == ["a/0.png", "a/1.png"]
    assert rows.shown.first.tolist() == [1, -1, 0]
    assert rows.images_of(0)[0] == tmp_path / "images" / "a" / "1.png"
    assert set(rows.sources.tolist()) == {"lines"}


def test_a_subset_of_a_new_format_is_written_for_llava(pool, tmp_path):
    store = Store(str(tmp_path / "store"))
    folder = store.get(Subset(Ranking(pool, Random()), rows=3))
    again = LlavaRows(folder / "instructions.json", tmp_path / "images")
    original = pool.open()
    for row in range(3):
        assert again.conversation(row) == original.conversation(row)
        assert again.turns(row) == original.turns(row)
    assert again[0] == {
        "id": 0,
        "source": "lines",
        "image": "a/1.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat?"},
            {"from": "gpt", "value": "A fig."},
            {"from": "human", "value": "And?"},
            {"from": "gpt", "value": "No more."},
        ],
    }
    assert again.sources.tolist() == original.sources.tolist()
    assert again.has_image.tolist() == original.has_image.tolist()


def test_the_doctor_checks_a_pool_of_a_new_format(pool, tmp_path):
    messages = [str(finding) for finding in check_pool(pool, Store(str(tmp_path)), decode=False)]
    assert any("3 rows, 2 with an image" in message for message in messages)
    longest = "longest conversation is row 0: 23 characters in 2 rounds; 0 rows repeat an id"
    assert any(longest in message for message in messages)


def test_a_row_that_llava_s_format_cannot_say_is_named(pool, tmp_path):
    record = {"picture": "a.png", "rounds": [["What?", "An <image>."]]}
    Path(str(pool.annotations)).write_text(json.dumps(record))
    with pytest.raises(
        PoolError, match=r"mix\.jsonl: row 0 .*: 2 <image> for one image \(a\.png\)"
    ):
        Store(str(tmp_path / "store")).get(Subset(Ranking(pool, Random()), rows=1))


def test_a_format_can_be_named_and_then_is_part_of_the_identity(toy: Toy, pool, tmp_path):
    path = tmp_path / "unmarked"
    path.write_text(json.dumps(ROUNDS[0]))
    with pytest.raises(
        PoolError, match=r"unmarked: row 0: .*`conversations` is None, expected a list of turns"
    ):
        Pool(str(path), ".").open()
    named = Pool(str(path), ".", format="lines")
    assert named.open().conversation(0)[0] == ("What?", "A fig.")
    assert named.identity() == Pool(str(path), ".").identity() | {"format": "lines"}
    assert Pool(str(path), ".", format="llava").identity() == Pool(str(path), ".").identity()
    with pytest.raises(
        PoolError, match=r"pool\.format=liens: no such format; there are huggingface, lines, lla"
    ):
        Pool(str(path), ".", format="liens").open()


def test_a_file_of_two_formats_must_be_named(pool, tmp_path):
    path = tmp_path / "both.jsonl"
    path.write_text('[{"conversations": "rounds"}, {"rounds": []}]')
    with pytest.raises(PoolError, match=r"both\.jsonl: may be of the formats lines, llava; name"):
        Pool(str(path), ".").open()


def test_a_new_trainer_s_format_is_written_next_to_llava_s(toy: Toy, compose, formats):
    overrides = (*toy.overrides(), "selector=random", "subset.write=[pairs]")
    subset = build(compose(*overrides).subset)
    plain = dataclasses.replace(subset, write=["llava"])
    assert key(subset) == key(plain)  # the rows are the same, and so are targets trained on them
    first, second = make(subset, toy.store).splitlines()
    assert Path(first) == toy.store.get(plain)
    rows = toy.pool.open()
    pairs = [rows.conversation(int(row))[0] for row in subset.chosen(toy.store)]
    expected = "".join(f"{question}\t{answer}\n" for question, answer in pairs)
    assert (Path(second) / "pairs.tsv").read_text() == expected
    assert make(plain, toy.store) == first


def test_an_unknown_trainer_s_format_is_refused_when_the_subset_is_built(toy: Toy):
    for name, end in (("lava", "; did you mean llava?"), ("stone", r"\.")):
        message = rf"subset\.write names '{name}', which is no format{end} There are energon, inter"
        with pytest.raises(ValueError, match=message.replace("?", r"\?")):
            Subset(Ranking(toy.pool, Random()), write=[name])
