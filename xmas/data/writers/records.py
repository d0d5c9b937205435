"""The records of a pool of JSON as they are, byte for byte: `records.json`, a list as the pool, or
`records.jsonl`.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Int

from xmas.data.chosen_rows import in_whole
from xmas.data.json_files.json_file import JsonFile, is_list
from xmas.data.json_files.json_rows import JsonRows
from xmas.data.rows import PoolError, Rows


def write(rows: Rows, chosen: Int[np.ndarray, " chosen"], folder: Path) -> None:
    """Raises PoolError: the pool is no JSON."""
    rows, chosen = in_whole(rows, chosen)
    if not isinstance(rows, JsonRows):
        raise PoolError(
            f"{rows.annotations}: subset.write=[records] copies records of JSON, which this is "
            "not; write [parquet] of a table, or [messages]"
        )
    with JsonFile(folder / file_of(rows)) as records:
        for row in map(int, chosen):
            records.add(rows.raw(row))


def training(rows: Rows, place: Path) -> str:
    """What `README.txt` says."""
    rows, _ = in_whole(rows, np.arange(0))
    return f"""\
Any trainer that reads your pool's file reads {place / file_of(rows)}; names of pictures in it are
relative to {rows.images.absolute()}.
"""


def file_of(rows: Rows) -> str:
    """The name of the file that `write` writes."""
    return "records.json" if is_list(rows.annotations) else "records.jsonl"
