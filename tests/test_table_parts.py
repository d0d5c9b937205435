"""A table indexed column by column has the rows, pictures and faults that its records have."""

import pickle
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import shards

from xmas.data import pool as pool_module
from xmas.data.indexes.side_processes import side_by_side
from xmas.data.opened_files import opened
from xmas.data.pool import Pool
from xmas.data.records.identity import renamed
from xmas.data.records.record_faults import fault_in
from xmas.data.tables import table_parts
from xmas.data.tables.image_columns import NAMES, columns_of, marked_images
from xmas.data.tables.table import Table, chunks_of, open_table
from xmas.data.tables.table_parts import by_turn, runs
from xmas.data.tables.usual_columns import pictures_of, usual_rows
from xmas.store import Store

TEXTS = ["Who?", "<image>", "<image>\nWhat?", "a <image> and <image>", "straße", "", None]
ROLES = {
    "messages": ["user", "assistant", "system", "human", "tool", None],
    "conversations": ["human", "gpt", "system", "user", "model", "bot"],
}
PATHS = ["a/1.png", "b.png", "./c/2.png", "/pool/d/3.png", "../e/4.png", "", "data:image/png,x"]
PATHS += ["http://host/x.png", "12:3", "f//g.png", None]
COLUMN = {
    "paths": pyarrow.list_(pyarrow.string()),
    "path": pyarrow.string(),
    "bytes": pyarrow.list_(pyarrow.binary()),
    "both": pyarrow.list_(pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})),
    "one": pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}),
}


def image(draw: random.Random, column: str):
    if column == "bytes":
        return draw.choice([b"png", b"png", None])
    path = draw.choice(PATHS[:3] if draw.random() < 0.8 else PATHS)
    if column in ("paths", "path"):
        return path
    content = b"png" if draw.random() < 0.6 else None
    return None if draw.random() < 0.05 else {"bytes": content, "path": path}


def images(draw: random.Random, column: str):
    if column in ("path", "one"):
        return image(draw, column) if draw.random() < 0.8 else None
    count = draw.choice([0, 1, 1, 1, 2, 3])
    return None if draw.random() < 0.05 else [image(draw, column) for _ in range(count)]


def turns(draw: random.Random, name: str, shown: int):
    rounds = draw.choice([1, 1, 2, 3])
    opening = "<image>" * (shown if draw.random() < 0.7 else 0)
    if name == "texts":
        pairs = [[opening * (not number) + "Who?", "He."] for number in range(rounds)]
        if draw.random() < 0.2:
            pairs[-1][draw.randrange(2)] = draw.choice(TEXTS)
        return [dict(zip(("user", "assistant"), pair, strict=True)) for pair in pairs]
    user, model, system, *_ = ROLES[name]
    said = [(role, "Who?") for _ in range(rounds) for role in (user, model)]
    said[0] = (user, opening + "Who?")
    if draw.random() < 0.2:
        said.insert(0, (model, "Hello."))
    if draw.random() < 0.2:
        said.insert(0, (system, "Be brief."))
    if draw.random() < 0.3:
        said[draw.randrange(len(said))] = (draw.choice(ROLES[name]), draw.choice(TEXTS))
    if draw.random() < 0.1:
        said.pop()
    role, text = ("role", "content") if name == "messages" else ("from", "value")
    return [{role: who, text: what} for who, what in said]


def table(seed: int, name: str, column: str, rows: int = 150) -> pyarrow.Table:
    draw = random.Random(seed)
    records = []
    for row in range(rows):
        shown = images(draw, column)
        count = len(shown) if isinstance(shown, list) else shown is not None
        records.append(
            {
                "id": draw.choice([f"{row}.jpg", None]),
                NAMES[column in ("path", "one")]: shown,
                name: turns(draw, name, int(count)) or None,
                "source": draw.choice(["web", "text", "images", None, None]),
                "note": draw.choice(["fine", "left.JPG", None, "x.jpg "]),
                "tags": draw.choice([["a"], ["a.png"], [], None]),
                "img_path": "z" if draw.random() < 0.05 else None,
                "video": "v.mp4" if draw.random() < 0.05 else None,
                "score": draw.random(),
            }
        )
    columns = {key: [record[key] for record in records] for key in records[0]}
    typed = {
        NAMES[column in ("path", "one")]: pyarrow.array(
            columns[NAMES[column in ("path", "one")]], COLUMN[column]
        )
    }
    return pyarrow.table(columns | typed)


def run_of(whole: pyarrow.Table, origin: str = "", columns=()):
    theirs = [dict(columns).get(name, name) for name in NAMES]
    pictured = [name for name in whole.column_names if name in theirs]
    chunks = chunks_of(whole.combine_chunks(), origin)
    of_whole = Table(chunks, identity=lambda: "", size=lambda: 0)
    (run,) = runs(of_whole, pictured, dict(columns), Path("/pool"))
    return run


def arrays_of(run) -> dict:
    """Its columns under our names."""
    theirs = run.chunks[0].columns
    others = [name for name in theirs if name not in run.image_columns]
    marked = marked_images(run.chunks, [name for name in theirs if name in run.image_columns])
    return renamed(columns_of(run.chunks, others) | marked, run.columns)


def plain(part) -> tuple:
    sources = [part.source_names[number] for number in part.source.tolist()]
    faults = [(fault.row, fault.id, fault.kind, fault.reason) for fault in part.faults]
    return part.counts.tolist(), list(part.names), part.stored.tolist(), sources, faults


@pytest.mark.parametrize("name", ["messages", "conversations", "texts"])
@pytest.mark.parametrize("column", COLUMN)
def test_columns_give_the_index_of_records(name, column):
    for seed, origin in enumerate(["", "chart", ""]):
        whole = table(seed, name, column)
        run = run_of(whole, origin)
        part = run()
        arrays = arrays_of(run)
        assert plain(part) == plain(run._read(arrays, np.arange(len(whole))))
        records = [by_turn(record) for record in pyarrow.table(arrays).to_pylist()]
        usual = usual_rows(arrays, pictures_of(arrays, len(whole), 0))
        faultless = np.array([fault_in(record) is None for record in records])
        assert not (usual & ~faultless).any()
        assert usual.sum() > 0.6 * faultless.sum()  # the others are read one by one
        first = list(dict.fromkeys(plain(part)[3]))
        assert list(part.source_names) == first


def test_shards_are_indexed_by_several_processes_and_mapped_afterwards(tmp_path, monkeypatch):
    """Rows are in runs: of one folder, of the same columns, of a number of rows."""
    for name, rows in {"a/1": 40, "a/2": 40, "b/1": 30}.items():
        path = tmp_path / "shards" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table(rows, "texts", "both", rows), path, row_group_size=9)
    store, pool = Store(str(tmp_path / "store")), Pool(str(tmp_path / "shards"))
    before = pool.open_all(store)
    monkeypatch.setattr(table_parts, "ROWS", 20)
    for module in (table_parts, pool_module):
        monkeypatch.setattr(module, "LARGE", 1)
    jobs = []
    monkeypatch.setattr(
        table_parts, "side_by_side", lambda some: jobs.append(some) or side_by_side(some)
    )
    rows = pool.open_all(store)
    assert len(jobs[0]) == 7  # 9 + 9, 9 + 9, 4 + 9, 9 + 9, 9 + 4 rows of a; 9 + 9, 9 + 3 of b
    assert isinstance(rows.shown.offsets.base, np.memmap)
    assert rows.faults == before.faults
    assert len(rows.faults) > 10
    assert list(rows.picture_names) == list(before.picture_names)
    assert rows.sources.tolist() == before.sources.tolist()
    assert {"a", "b"} < set(rows.sources.tolist())
    assert rows.shown.pictures.tolist() == before.shown.pictures.tolist()
    opened.cache_clear()
    again = pool.open_all(store)
    assert again is not rows
    assert len(jobs) == 1
    assert again.faults == rows.faults


def test_a_table_in_memory_stays_in_its_process():
    with pytest.raises(TypeError, match="in memory"):
        pickle.dumps(Table(chunks_of(table(0, "texts", "path")), lambda: "", lambda: 0))


def test_consecutive_rows_are_converted_together_and_stay_the_same(tmp_path):
    """Rows in turn, backwards and at random are those of the table, whichever columns."""
    table = open_table(shards.write(tmp_path / "pool"))
    rows, names = len(table), [name for name in table.chunks[0].columns if name != "images"]
    expected = [table.record(row, names) for row in range(rows)]
    orders = [*range(rows), *reversed(range(rows)), 3, 4, 5, 0, 1, 2, 3, 2, 5, 6]
    for row in orders:
        assert table.record(row, names, ahead=3) == expected[row]
    for row in range(rows):
        assert table.record(row, names, ahead=3) == expected[row]
        assert table.record(row, names[:1], ahead=2) == {names[0]: expected[row][names[0]]}
