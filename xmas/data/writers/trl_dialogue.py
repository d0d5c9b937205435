"""TRL's and unsloth's messages, a row for each dialogue: `train-00000.parquet` and on, with
`images` and `messages`, whose contents are lists of parts.

TRL's loss is then on all turns, questions too, unless `assistant_only_loss` is set.
"""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Int

from xmas.data.chosen_rows import in_whole
from xmas.data.rows import Rows
from xmas.data.writers.trl import TURNS, command, images_of, message_of, write_table

_FEATURES = {"images": "images", "messages": TURNS, "source": "text"}


def write(rows: Rows, chosen: Int[np.ndarray, " chosen"], folder: Path) -> None:
    """Write the `chosen` rows."""
    rows, chosen = in_whole(rows, chosen)
    records = (
        {
            "images": images_of(rows, rows.shown[row].tolist()),
            "messages": [message_of(turn) for turn in rows.turns(row)],
            "source": str(rows.sources[row]),
        }
        for row in map(int, chosen)
    )
    write_table(records, _FEATURES, folder)


def training(rows: Rows, place: Path) -> str:
    """Commands for `README.txt`."""
    return f"""\
TRL       {command(place)} --assistant_only_loss true ...
          Without --assistant_only_loss the loss is on the questions too. It needs transformers 5.18
          and a chat template that marks answers; else write [trl], a row for each answer.
unsloth   datasets.load_dataset({json.dumps(str(place))}, split="train")
"""
