"""Parquet shards with the pictures' bytes inside: `train-00000.parquet` and on. Of a pool that is a
table its own columns; of any other `images`, `messages` and `source`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from xmas.data.chosen_rows import in_whole
from xmas.data.records.of_trainers import checked, spoken
from xmas.data.rows import PoolError, Rows
from xmas.data.tables.arrow_rows import ArrowRows
from xmas.data.tables.parquet_shards import ParquetShards, schema_of

FEATURES = {"images": "images", "messages": {"role": "text", "content": "text"}, "source": "text"}
_ROWS = 100  # whose pictures are read before a table is made of them


def write(rows: Rows, chosen: Int[np.ndarray, " chosen"], folder: Path) -> None:
    """Raises PoolError: shards of the pool have different columns, or a picture is not there."""
    rows, chosen = in_whole(rows, chosen)
    parts = _of_table(rows, chosen) if isinstance(rows, ArrowRows) else _of_rows(rows, chosen)
    with ParquetShards(folder) as shards:
        for part in parts:
            shards.add(part)


def training(rows: Rows, place: Path) -> str:
    """Commands for `README.txt`."""
    folder = json.dumps(str(place))
    lines = [f'Python    datasets.load_dataset({folder}, split="train")']
    whole, _ = in_whole(rows, np.arange(0))
    if isinstance(whole, ArrowRows) and "texts" in whole.columns_of_file:
        lines.append(f"nanoVLM   train_dataset_path={folder}")
    return "\n".join(lines)


def _of_table(rows: ArrowRows, chosen: Int[np.ndarray, " chosen"]) -> Iterator[Any]:
    """The chosen rows of every chunk of a table, which is read once where they are in order."""
    table, schema = rows.table, None
    chunks = np.searchsorted(table.starts, chosen, side="right") - 1
    ends = np.append(np.flatnonzero(np.diff(chunks)) + 1, len(chosen))
    start = 0
    for end in ends.tolist():
        if end > start:
            chunk = int(chunks[start])
            numbers = chosen[start:end] - int(table.starts[chunk])
            part = table.chunks[chunk].read(rows.columns_of_file).take(numbers)
            schema = schema or part.schema
            if not part.schema.equals(schema):
                part = _cast(part, schema, rows, chunk)
            yield part
        start = end


def _cast(part: Any, schema: Any, rows: ArrowRows, chunk: int) -> Any:
    try:
        return part.cast(schema)
    except ValueError as error:  # pyarrow's are
        raise PoolError(
            f"{rows.annotations}: row {int(rows.table.starts[chunk])} and those that follow are in "
            f"a shard with other columns than the first ({error}); convert the shards to the same"
        ) from error


def _of_rows(rows: Rows, chosen: Int[np.ndarray, " chosen"]) -> Iterator[Any]:
    import pyarrow

    schema = schema_of(FEATURES)
    for start in range(0, len(chosen), _ROWS):
        records = [_record(rows, int(row)) for row in chosen[start : start + _ROWS]]
        yield pyarrow.Table.from_pylist(records, schema=schema)


def _record(rows: Rows, row: int) -> dict[str, Any]:
    numbers = rows.shown[row].tolist()
    names = [rows.picture_names[number] for number in numbers]
    images = [
        {"bytes": _content(rows, number, row), "path": name}
        for number, name in zip(numbers, names, strict=True)
    ]
    record = {"images": names, "messages": spoken(rows, row), "source": str(rows.sources[row])}
    return checked(rows, row, record) | {"images": images}


def _content(rows: Rows, number: int, row: int) -> bytes:
    picture = rows.picture(number)
    try:
        return picture if isinstance(picture, bytes) else picture.read_bytes()
    except OSError as error:
        raise PoolError(
            f"{rows.annotations}: row {row}: {picture}: {error.strerror}; fetch the file, or "
            "pool.invalid=skip leaves the row out"
        ) from error
