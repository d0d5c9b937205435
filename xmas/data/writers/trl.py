"""TRL's prompt and completion, a row for each answer: `train-00000.parquet` and on, with `images`,
`prompt` and `completion` as lists of parts.

TRL's loss is on the completion alone, so that on a row an answer it is LLaVA's, on every answer
once. A picture that is a file is named by its whole path; one in shards keeps its bytes.
"""

import itertools
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from xmas.data.chosen_rows import in_whole
from xmas.data.rows import PoolError, Rows
from xmas.data.tables.parquet_shards import ParquetShards, schema_of
from xmas.data.turns import ASSISTANT, Turn

TURNS = {"role": "text", "content": "parts"}
_FEATURES = {"images": "images", "prompt": TURNS, "completion": TURNS, "source": "text"}

_BATCH = 100  # rows, with their pictures, that become a table


def write(rows: Rows, chosen: Int[np.ndarray, " chosen"], folder: Path) -> list[str]:
    """Write a row for each answer of the `chosen` rows.

    Raises PoolError: an answer shows a picture; names file and row.
    """
    rows, chosen = in_whole(rows, chosen)
    count = write_table(
        (record for row in map(int, chosen) for record in _answers(rows, row)), _FEATURES, folder
    )
    return [f"{count:,} rows, one for each answer of the {len(chosen):,} rows of the pool."]


def training(rows: Rows, place: Path) -> str:
    """Commands for `README.txt`."""
    return f"""\
TRL   {command(place)} ...
      The loss is on the completion, that is on every answer once, as in LLaVA.
"""


def command(place: Path) -> str:
    """How TRL trains on the shards of a folder; without a limit, pictures are not cut."""
    return f"trl sft --dataset_name {shlex.quote(str(place))} --max_length none"


def write_table(records: Iterator[dict[str, Any]], features: dict[str, Any], folder: Path) -> int:
    """Write records as shards, rows with the same picture next to each other; returns their
    number.
    """
    import pyarrow

    schema, count = schema_of(features), 0
    with ParquetShards(folder, repeated=True) as shards:
        while batch := list(itertools.islice(records, _BATCH)):
            shards.add(pyarrow.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def images_of(rows: Rows, numbers: list[int]) -> list[dict[str, Any]]:
    """Pictures as `datasets` has them."""
    pictures = [rows.picture(number) for number in numbers]
    return [
        {"bytes": picture, "path": None}
        if isinstance(picture, bytes)
        else {"bytes": None, "path": str(picture.absolute())}
        for picture in pictures
    ]


def message_of(turn: Turn) -> dict[str, Any]:
    """A turn as a list of parts, each picture where it is in the text."""
    parts: list[dict[str, Any]] = []
    for number, piece in enumerate(turn.pieces()):
        parts += [{"type": "image", "text": None}] if number else []
        parts += [{"type": "text", "text": piece}] if piece or not turn.images else []
    return {"role": turn.role, "content": parts}


def _answers(rows: Rows, row: int) -> Iterator[dict[str, Any]]:
    turns = rows.turns(row)
    images = images_of(rows, rows.shown[row].tolist())
    for place, turn in enumerate(turns):
        if turn.role == ASSISTANT and turn.images:
            raise PoolError(
                f"{rows.annotations}: row {row}: turn {place}, an answer, shows a picture, which "
                "TRL's completions cannot have; write [trl_dialogue]"
            )
        if turn.role == ASSISTANT:
            shown = sum(len(earlier.images) for earlier in turns[:place])
            yield {
                "images": images[:shown],
                "prompt": [message_of(earlier) for earlier in turns[:place]],
                "completion": [message_of(turn)],
                "source": str(rows.sources[row]),
            }
