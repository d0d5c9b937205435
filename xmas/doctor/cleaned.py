"""Write a pool without the rows that cannot be used, in its own format, and the list of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from xmas.data.arrow_rows import ArrowRows
from xmas.data.faults import Fault, write
from xmas.data.json_rows import JsonRows
from xmas.data.rows import Rows
from xmas.data.writers import llava

LEFT_OUT = "left_out.jsonl"


def write_cleaned(rows: Rows, faults: Sequence[Fault], folder: Path) -> Path:
    """Write the rows without a fault, as they are in the pool; returns their file.

    `pool.json` of a pool of JSON, `pool.parquet` of a table, `instructions.json` of any other. The
    images of JSON stay where they are. `left_out.jsonl` has every other row, with what is wrong.

    Raises FileExistsError: the folder has something in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(
            f"doctor.write={folder}: this folder is not empty; name one that is not there"
        )
    faulty = [fault.row for fault in faults]
    valid = np.setdiff1d(np.arange(len(rows)), faulty)
    write(faults, folder / LEFT_OUT)
    if isinstance(rows, ArrowRows):
        return _parquet(rows, valid, folder / "pool.parquet")
    if isinstance(rows, JsonRows):
        file = folder / "pool.json"
        with file.open("wb") as records:
            records.write(b"[\n")
            for number, row in enumerate(valid.tolist()):
                records.write((b",\n" if number else b"") + rows.raw(row))
            records.write(b"\n]\n")
        return file
    llava.write(rows, valid, folder)
    return folder / llava.FILE


def _parquet(rows: ArrowRows, valid: Int[np.ndarray, " valid"], file: Path) -> Path:
    """A group of rows after the other, images as they are in the shards."""
    import pyarrow.parquet

    writer = None
    starts = rows.table.starts.tolist()
    for chunk, start, stop in zip(rows.table.chunks, starts[:-1], starts[1:], strict=True):
        kept = valid[(valid >= start) & (valid < stop)] - start
        part = chunk.read(rows.columns_of_file).take(kept)
        writer = writer or pyarrow.parquet.ParquetWriter(file, part.schema)
        writer.write_table(part)
    if writer is not None:
        writer.close()
    return file
