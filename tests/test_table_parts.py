"""A table indexed column by column has the rows, pictures and faults that its records have."""

import random
from pathlib import Path

import numpy as np
import pyarrow
import pytest

from xmas.data.image_columns import NAMES, columns_of, marked_images
from xmas.data.json_rows import renamed
from xmas.data.record_faults import fault_in
from xmas.data.table import chunks_of
from xmas.data.table_parts import by_turn, runs
from xmas.data.usual_columns import pictures_of, usual_rows

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
    (run,) = runs(
        list(chunks_of(whole.combine_chunks(), origin)), pictured, dict(columns), Path("/pool")
    )
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
        part = run.part()
        arrays = arrays_of(run)
        assert plain(part) == plain(run._read(arrays, np.arange(len(whole))))
        records = [by_turn(record) for record in pyarrow.table(arrays).to_pylist()]
        usual = usual_rows(arrays, pictures_of(arrays, len(whole), 0))
        faultless = np.array([fault_in(record) is None for record in records])
        assert not (usual & ~faultless).any()
        assert usual.sum() > 0.6 * faultless.sum()  # the others are read one by one
        first = list(dict.fromkeys(plain(part)[3]))
        assert list(part.source_names) == first
