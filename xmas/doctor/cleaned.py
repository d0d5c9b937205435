"""Write a pool without the rows that cannot be used, in its own format, and the list of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xmas.data.faults import Fault, write
from xmas.data.json_files.json_rows import JsonRows
from xmas.data.rows import Rows
from xmas.data.tables.arrow_rows import ArrowRows
from xmas.data.writers import llava, parquet, records

LEFT_OUT = "left_out.jsonl"


def write_cleaned(rows: Rows, faults: Sequence[Fault], folder: Path) -> Path:
    """Write the rows without a fault, as they are in the pool; returns their file, or the folder of
    their shards.

    `records.json` or `records.jsonl` of a pool of JSON, `train-00000.parquet` and on of a table,
    `instructions.json` of any other. The images of JSON stay where they are. `left_out.jsonl` has
    every other row, with what is wrong.

    Raises FileExistsError: the folder has something in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(
            f"doctor.write={folder}: this folder is not empty; name one that is not there"
        )
    valid = np.setdiff1d(np.arange(len(rows)), [fault.row for fault in faults])
    write(faults, folder / LEFT_OUT)
    if isinstance(rows, ArrowRows):
        parquet.write(rows, valid, folder)
        return folder
    if isinstance(rows, JsonRows):
        records.write(rows, valid, folder)
        return folder / records.file_of(rows)
    llava.write(rows, valid, folder)
    return folder / llava.FILE
