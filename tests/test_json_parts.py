"""A JSON file indexed range by range, by several processes, has the index of one pass."""

import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from toy import turns

from xmas.data.faults import FaultyRowsError
from xmas.data.indexes.side_processes import side_by_side
from xmas.data.indexes.stored_index import FOLDER, StoredIndexes
from xmas.data.json_files import json_parts, json_rows
from xmas.data.json_files.json_parts import Records
from xmas.data.pool import Pool
from xmas.data.rows import PoolError
from xmas.store import Store

TRAP = '}, {"id": "5", "image": "trap.png", "conversations": []}'


def record(row: int, draw: random.Random) -> dict:
    text = draw.choice(["Who?", "Größe?", TRAP, "x" * draw.randrange(3000), '\\"', "é" * 40])
    made = {"id": str(row), "conversations": turns("<image>\n" + text, "He.")}
    if row % 7 == 3:
        made = {"conversations": turns(text, "He."), "id": row, "source": "web"}
    elif row % 11 == 5:
        made["conversations"].pop()
        made["image"] = "a/b.png"
    else:
        made = {"id": str(row), "image": f"{row % 5}/{row % 50}.png"} | made
    if row % 13 == 2:
        made["nested"] = [{"id": "1"}, {"id": "2"}]
    return made


def written(path: Path, style: str, rows: int = 200) -> Path:
    draw = random.Random(1)
    records = [record(row, draw) for row in range(rows)]
    if style == "lines":
        text = "\n".join(json.dumps(one, ensure_ascii=False) for one in records)
    else:
        text = json.dumps(records, indent=2 if style == "pretty" else None)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def inline(monkeypatch):
    monkeypatch.setattr(json_parts, "side_by_side", lambda jobs: [job() for job in jobs])


@pytest.mark.parametrize("style", ["list", "pretty", "lines"])
@pytest.mark.parametrize("size", [700, 1500, 9000])
def test_ranges_give_the_index_of_one_pass(style, size, tmp_path, inline, monkeypatch):
    path = written(tmp_path / "mix.json", style)
    monkeypatch.setattr(json_parts, "_RANGE", size)
    read_again = []
    read = json_parts.Range.read
    monkeypatch.setattr(
        json_parts.Range, "read", lambda part: read_again.append(part.row) or read(part)
    )
    records = Records(path, tmp_path, True, {}, chunk=512)
    index = records.index_in_ranges(path.stat().st_size)
    with path.open("rb") as file:
        whole = records.index(file)
    assert index.spans is not None
    assert np.array_equal(index.spans, whole.spans)
    assert index.shown.offsets.tolist() == whole.shown.offsets.tolist()
    assert index.shown.pictures.tolist() == whole.shown.pictures.tolist()
    assert list(index.names) == list(whole.names)
    assert index.source.tolist() == whole.source.tolist()
    assert index.source_names == whole.source_names
    assert index.faults == whole.faults
    assert [fault.row for fault in index.faults] == [
        row for row in range(200) if row % 11 == 5 and row % 7 != 3
    ]
    assert index.sha256 == json_parts.sha256_of(path)
    wrong = [row for row in read_again if row]  # a guess inside the text that is a trap
    assert wrong if size == 700 else len(wrong) < path.stat().st_size // size / 2


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (lambda text: text[:-30], r"row 199 is not valid JSON"),
        (lambda text: text[:-1], r"after row 199 comes '', expected"),
        (lambda text: text + "[]", r"after the list comes '\['"),
        (lambda text: text.replace('"id": 122,', '"id" 122,'), r"row 122 is not valid JSON"),
        (
            lambda text: text.replace('}, {"id": "120"', '} {"id": "120"'),
            r"after row 119 comes '\{'",
        ),
    ],
)
def test_a_malformed_file_is_named_by_its_row(end, message, tmp_path, inline, monkeypatch):
    path = written(tmp_path / "mix.json", "list")
    path.write_text(end(path.read_text("utf-8")), "utf-8")
    monkeypatch.setattr(json_parts, "_RANGE", 9000)
    records = Records(path, tmp_path, True, {}, chunk=512)
    with pytest.raises(PoolError, match=message), path.open("rb") as file:
        records.index(file)
    with pytest.raises(PoolError, match=message):
        records.index_in_ranges(path.stat().st_size)


def test_an_index_is_made_once_by_several_processes_and_then_mapped(tmp_path, monkeypatch):
    path = written(tmp_path / "mix.json", "list")
    store, pool = Store(str(tmp_path / "store")), Pool(str(path), str(tmp_path / "images"))
    before = pool.open_all(store)
    for module in (json_rows, __import__("xmas.data.pool", fromlist=["pool"])):
        monkeypatch.setattr(module, "LARGE", 1)
    monkeypatch.setattr(json_rows, "_SETTLED", 0)
    monkeypatch.setattr(json_parts, "_RANGE", 30_000)
    ranges = []

    def first_side_by_side(jobs):
        ranges.append(len(jobs))
        return side_by_side(jobs) if len(ranges) == 1 else [job() for job in jobs]

    monkeypatch.setattr(json_parts, "side_by_side", first_side_by_side)
    with pytest.raises(FaultyRowsError, match="turns out of order: "):
        pool.open(store)
    rows = pool.open_all(store)
    assert ranges[0] > 2
    assert len(ranges) == 1  # the index was stored before its faults were raised
    (stored,) = (tmp_path / "store" / FOLDER).glob("[!.]*[!k]")
    assert isinstance(rows.shown.offsets.base, np.memmap)
    assert rows.faults == before.faults
    assert rows.sources.tolist() == before.sources.tolist()
    assert [rows[row] for row in range(200)] == [before[row] for row in range(200)]
    assert rows.picture_names == before.picture_names
    (stored / "names.npy").unlink()
    assert len(pool.open_all(store)) == 200  # opened before, in this process
    path.write_text(path.read_text("utf-8").replace("He.", "She."), "utf-8")
    assert pool.open_all(store).turns(0)[1].text == "She."
    assert len(ranges) == 2


def test_nothing_is_stored_without_a_store(tmp_path, monkeypatch):
    path = written(tmp_path / "mix.json", "list")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xmas.data.pool.LARGE", 1)
    Pool(str(path), ".").open_all(Store("store"))
    assert not Path("store").exists()  # a file that has just been written may change unnoticed
    monkeypatch.setattr(json_rows, "_SETTLED", 0)
    with pytest.raises(FaultyRowsError):
        Pool(str(path), ".").open()
    assert not Path("store").exists()
    assert StoredIndexes.of(Store("a")).folder == Path("a") / FOLDER


def test_what_a_job_raises_is_raised():
    jobs = [partial(int, text) for text in ("1", "x", "y")]
    with pytest.raises(ValueError, match="'x'"):
        side_by_side(jobs)
    assert side_by_side(jobs[:1] * 3) == [1, 1, 1]
