"""The pool: its index is json's own reading, its bytes are the file's, what is wrong is named."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from toy import ROWS, TEXT_ONLY, Toy, turns

from xmas.data.pool import Pool
from xmas.data.readers.llava import LlavaRows
from xmas.data.rows import PoolError
from xmas.data.writers import llava
from xmas.selection.subset import Subset
from xmas.store import Made, Store, key

ROUND = turns("<image>\nWhat?", "A fig.")


@pytest.fixture(params=[1 << 22, 64, 7], ids=lambda size: f"chunk{size}")
def chunk(request) -> int:
    """Bytes read at a time: the real size, and sizes that cut records, letters and numbers."""
    return request.param


@pytest.fixture
def write(tmp_path: Path):
    """Writes an annotation file: bytes as they are, records as JSON."""

    def put(content: bytes | list, **options) -> Path:
        path = tmp_path / "pool.json"
        if not isinstance(content, bytes):
            content = json.dumps(content, **options).encode()
        path.write_bytes(content)
        return path

    return put


def pool_of(path: Path, **options) -> Pool:
    return Pool(str(path), str(path.parent / "images"), **options)


def rows_of(path: Path, chunk: int) -> LlavaRows:
    return LlavaRows(path, path.parent / "images", chunk=chunk)


def records() -> list[dict]:
    """What JSON writers produce: letters of two to four bytes, escapes, nesting, numbers last."""
    return [
        {"id": 7, "conversations": turns('数一数 \\ "two" ]},[{', "é\n\t🎨")},
        {"id": "7", "conversations": turns("b", "c\u2028"), "weights": [1.5e-3, [], {"a": {}}]},
        {"image": "a/b.png", "conversations": turns("<image>\nWhich?", "Là"), "n": -12345678901},
        {"conversations": turns("q" * 300, "ü" * 300), "last": None},
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ensure_ascii": False},
        {"ensure_ascii": False, "indent": 4},
        {"separators": (",", ":"), "ensure_ascii": False},
    ],
    ids=["escaped", "utf8", "indented", "dense"],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
def test_the_streamed_index_is_what_json_reads(write, chunk, options, mark):
    path = write(mark + json.dumps(records(), **options).encode() + b"\r\n ")
    whole = json.loads(path.read_text("utf-8-sig"))
    examples = rows_of(path, chunk)
    assert len(examples) == len(whole) == 4
    assert [examples[row] for row in range(4)] == whole


def test_a_record_is_copied_byte_for_byte(write, chunk):
    text = (
        '[ {"conversations" : [ {"from":"human","value":"\\u00e9é"},\n {"from":"gpt","value":"1"}]}'
    )
    second = (
        '{"conversations":[{"from":"human","value":"ü"},{"value":"2.50","from":"gpt"}],"x":1.0}'
    )
    examples = rows_of(write(f"{text} ,\n\t{second}]".encode()), chunk)
    assert examples.raw(0) == text[2:].encode()
    assert examples.raw(1) == second.encode()


def test_the_toy_pool_is_indexed_like_json(toy: Toy, chunk):
    path = toy.folder / "pool.json"
    examples = rows_of(path, chunk)
    assert [examples[row] for row in range(len(examples))] == json.loads(path.read_text("utf-8"))
    assert len(examples) == ROWS
    assert tuple(np.flatnonzero(~examples.has_image)) == TEXT_ONLY


def test_an_empty_list_is_a_pool_without_rows(write, chunk):
    examples = rows_of(write(b" [ \n ] \n"), chunk)
    assert len(examples) == 0
    assert examples.has_image.shape == examples.shown.first.shape == examples.sources.shape == (0,)


BAD_FILES = {
    "jsonl of something else": (
        b'{"id": 1}\n{"id": 2}\n',
        r"row 0 \(id 1\).*`conversations` is None, expected a list of turns.*2 of 2 rows",
    ),
    "cut line": (
        b'{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}\n{"c',
        "row 1 is not valid JSON",
    ),
    "bare number": (b"12", r"starts with '1', expected a JSON list"),
    "empty": (b"", r"starts with '', expected a JSON list"),
    "cut record": (b'[{"conversations": [{"from": "hu', r"row 0 is not valid JSON"),
    "cut comma": (json.dumps([{"conversations": ROUND}]).encode()[:-1], "after row 0 comes ''"),
    "cut list": (
        json.dumps([{"conversations": turns("a", "b")}] * 2).encode()[:-1] + b" ,\n ",
        r"cut short after row 1",
    ),
    "no comma": (
        json.dumps([{"conversations": turns("a", "b")}]).encode()[:-1] + b" 5",
        r"after row 0 comes '5', expected ',' or '\]'",
    ),
    "two lists": (
        json.dumps([{"conversations": turns("a", "b")}]).encode() * 2,
        r"after the list comes '\['",
    ),
    "latin-1": ('[{"conversations": "é"}]'.encode("latin-1"), "not UTF-8"),
    "utf-16": (json.dumps([]).encode("utf-16"), "not UTF-8"),
    "not an object": (
        json.dumps([{"conversations": turns("a", "b")}, "fig"]).encode(),
        r"row 1 is 'fig', expected an object",
    ),
    "number": (b"[123456789, 13]", r"row 0 is 123456789, expected an object"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_pool_is_refused(write, chunk, name):
    content, message = BAD_FILES[name]
    path = write(content)
    with pytest.raises(PoolError, match=message) as refused:
        rows_of(path, chunk)
    assert str(path) in str(refused.value)


BAD_ROWS = {
    "no conversations": ({"id": 9}, r"`conversations` is None, expected a list of turns"),
    "empty conversations": ({"conversations": []}, r"`conversations` is \[\], expected"),
    "conversations a dict": ({"conversations": {"a": 1}}, r"`conversations` is \{'a': 1\}"),
    "turn no object": ({"conversations": ["hi"]}, r"turn 0 is 'hi', expected \{from, value\}"),
    "value no string": (
        {"conversations": [{"from": "human", "value": 5}]},
        r"turn 0 is \{'from': 'human', 'value': 5\}",
    ),
    "unknown role": (
        {"conversations": [*turns("a"), {"from": "assistant", "value": "b"}]},
        r"turn 1 is from 'assistant', expected 'human' or 'gpt'",
    ),
    "human twice": (
        {"conversations": [*turns("a"), *turns("b", "c")]},
        r"turns come from \['human', 'human', 'gpt'\], expected human and gpt in turn",
    ),
    "human last": ({"conversations": turns("a", "b", "c")}, r"turns come from"),
    "gpt alone": (
        {"conversations": [{"from": "gpt", "value": "b"}]},
        r"turns come from \['gpt'\]",
    ),
    "no placeholder": (
        {"image": "a.png", "conversations": turns("a", "b")},
        r"0 <image> for one image \(a\.png\), expected exactly 1",
    ),
    "two placeholders": (
        {"image": "a.png", "conversations": turns("<image>a<image>", "b")},
        r"2 <image> for one image \(a\.png\)",
    ),
    "placeholders in two turns": (
        {"image": "a.png", "conversations": turns("<image>a", "b", "<image>", "d")},
        r"2 <image> for one image",
    ),
    "image a list": (
        {"image": [["a.png"]], "conversations": ROUND},
        r"`image` is \['a\.png'\], expected a relative path",
    ),
    "image empty": ({"image": "", "conversations": ROUND}, r"`image` is '', expected"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_malformed_record_is_named_by_file_row_and_id(write, name):
    record, message = BAD_ROWS[name]
    good = {"id": "ok", "image": "a.png", "conversations": ROUND}
    path = write([good, good, {"id": "x17"} | record])
    with pytest.raises(PoolError, match=message) as refused:
        pool_of(path).open()
    shown = record.get("id", "x17")
    assert str(refused.value).startswith(f"{path}: row 2 (id {shown!r})")


def test_a_long_value_is_shown_short(write):
    path = write([{"conversations": "x" * 5000}])
    with pytest.raises(PoolError, match=r"x\.\.\., expected a list") as refused:
        pool_of(path).open()
    assert len(str(refused.value)) < len(str(path)) + 200


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PoolError, match=r"pool\.annotations=.*absent\.json.*No such file"):
        pool_of(tmp_path / "absent.json").open()


def test_another_file_than_the_configured_one_is_refused(write):
    path = write(records())
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(pool_of(path, sha256=found).open()) == 4
    with pytest.raises(PoolError, match=f"sha256 is {found}, the configuration expects {'0' * 64}"):
        pool_of(path, sha256="0" * 64).open()


def test_the_identity_of_a_pool_is_its_hash_not_its_place(tmp_path, write):
    path = write(records())
    moved = tmp_path / "moved.json"
    moved.write_bytes(path.read_bytes())
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    same = [pool_of(path), pool_of(moved), pool_of(path, sha256=found), pool_of(path, name="x")]
    assert [one.identity() for one in same] == [{"pool": {"sha256": found}}] * 4
    moved.write_bytes(path.read_bytes() + b"\n")
    assert pool_of(moved).identity() != same[0].identity()


def test_a_made_pool_is_opened_and_known_by_its_stage(toy: Toy, tmp_path):
    store = Store(str(tmp_path))  # without the subset
    subset: Subset = toy.subset(rows=11)
    made = Pool(Made(subset, "instructions.json"), str(toy.folder / "images"))
    assert key(toy.subset(rows=12)) not in json.dumps(made.identity())
    assert made.identity()["pool"]["stage"]["rows"] == 11
    assert not store.path(subset).exists()
    opened = made.open(store)
    whole = toy.pool.open()
    rows = subset.chosen(store).tolist()
    assert [opened[row] for row in range(11)] == [whole[row] for row in rows]


def test_sources_are_named_by_the_record_else_by_the_folder_of_the_image(write):
    said = turns("a", "b")
    seen = turns("<image>", "b")
    path = write([
        {"conversations": said},
        {"image": "vg/VG_100K/1.png", "conversations": seen},
        {"image": "1.png", "conversations": seen},
        {"image": "vg/1.png", "source": "mine", "conversations": seen},
        {"source": "élèves", "conversations": said},
        {"source": 3, "conversations": said},
    ])  # fmt: skip
    sources = pool_of(path).open().sources
    assert sources.tolist() == ["text", "vg", "images", "mine", "élèves", "text"]


def test_rows_with_the_same_image_share_a_picture(write):
    images = ["b.png", None, "a.png", "b.png", "c.png", None]
    path = write([
        {"conversations": turns("a", "b")}
        | ({"image": name, "conversations": ROUND} if name else {})
        for name in images
    ])  # fmt: skip
    examples = pool_of(path).open()
    assert examples.picture_names == ["a.png", "b.png", "c.png"]
    assert examples.shown.first.tolist() == [1, -1, 0, 1, 2, -1]
    assert examples.has_image.tolist() == [True, False, True, True, True, False]
    assert examples.images_of(4)[0] == path.parent / "images" / "c.png"
    assert examples.images_of(5) == []


def test_a_null_image_is_no_image(write):
    examples = pool_of(write([{"image": None, "conversations": turns("a <image>", "b")}])).open()
    assert not examples.has_image[0]
    assert examples.conversation(0) == [("a <image>", "b")]


def test_a_first_turn_of_the_model_is_dropped(write):
    first = {"from": "gpt", "value": "Hello!"}
    path = write([
        {"conversations": [first, *turns("a", "b", "c", "d")]},
        {"image": "a.png", "conversations": [first | {"value": "<image>"}, *turns("a", "b")]},
    ])  # fmt: skip
    examples = pool_of(path).open()
    assert examples.conversation(0) == [("a", "b"), ("c", "d")]
    assert examples.conversation(1) == [("a", "b")]


def test_the_placeholder_is_removed_and_only_its_turn_stripped(write):
    """As in LLaVA's `preprocess_multimodal`; in a text-only row `<image>` is a word like others."""
    seen = turns("Look: <image>\n", " b\n", " c ", "d")
    said = turns(" <image> a ", " b ")
    path = write([{"image": "a.png", "conversations": seen}, {"conversations": said}])
    examples = pool_of(path).open()
    assert examples.conversation(0) == [("Look:", " b\n"), (" c ", "d")]
    assert examples.conversation(1) == [(" <image> a ", " b ")]


def test_a_pool_that_changes_is_read_again(write):
    assert len(pool_of(write(records())).open()) == 4
    assert len(pool_of(write(records()[:3])).open()) == 3


def test_written_records_are_a_pool_again(toy: Toy, tmp_path):
    examples = toy.pool.open(Store("nowhere"))
    rows = np.array([40, 0, 8])
    llava.write(examples, rows, tmp_path)
    again = Pool(str(tmp_path / "instructions.json"), str(toy.folder / "images")).open()
    assert [again.raw(line) for line in range(3)] == [examples.raw(int(row)) for row in rows]
