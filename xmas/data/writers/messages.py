"""Messages with texts: `messages.jsonl`, or `messages.json` of a pool that is a JSON list, which
LLaMA-Factory reads by its registry `dataset_info.json`.

A record of the pool that is in this form already is copied byte for byte. Turns are called as in
the pool's first record: {role, content} or {from, value}.
"""

import json
import shlex
from pathlib import Path

import numpy as np
from jaxtyping import Int

from xmas.data.chosen_rows import in_whole
from xmas.data.images.picture_files import PictureFiles, image_folder
from xmas.data.json_files.json_file import JsonFile, is_list
from xmas.data.json_files.json_rows import JsonRows
from xmas.data.records.of_trainers import (
    LLAVA,
    MESSAGES,
    Words,
    is_message_record,
    message_record,
)
from xmas.data.rows import Rows
from xmas.data.turns import ASSISTANT, SYSTEM, USER

INFO = "dataset_info.json"
NAME = "subset"  # of the dataset in LLaMA-Factory's registry


def write(rows: Rows, chosen: Int[np.ndarray, " chosen"], folder: Path) -> list[str]:
    """Raises PoolError: a row without a picture has an image placeholder in its text."""
    words, file = _words_of(rows), file_of(rows)
    rows, chosen = in_whole(rows, chosen)
    pictures = PictureFiles(rows, folder)
    converted = 0
    with JsonFile(folder / file) as records:
        for row in map(int, chosen):
            raw = rows.raw(row) if isinstance(rows, JsonRows) else None
            if raw is None or not is_message_record(json.loads(raw), words):
                raw = message_record(rows, row, pictures.names(row), words)
                converted += 1
            records.add(raw)
    if not converted or not isinstance(rows, JsonRows):
        return []
    return [f"{converted:,} of {len(chosen):,} records were in another form and are rewritten."]


def registry(rows: Rows, count: int, place: Path) -> dict[str, str]:
    """LLaMA-Factory's description of the file."""
    words = _words_of(rows)
    entry = {
        "file_name": file_of(rows),
        "formatting": "sharegpt",
        "columns": {"messages": words.turns, "images": "images"},
        "tags": {
            "role_tag": words.role,
            "content_tag": words.text,
            "user_tag": words.speakers[USER],
            "assistant_tag": words.speakers[ASSISTANT],
            "system_tag": words.speakers[SYSTEM],
        },
    }
    return {INFO: json.dumps({NAME: entry}, indent=2) + "\n"}


def training(rows: Rows, place: Path) -> str:
    """Commands for `README.txt`."""
    folder, images = (shlex.quote(str(path)) for path in (place, image_folder(rows, place)))
    return f"""\
LLaMA-Factory   llamafactory-cli train --stage sft --do_train true --dataset {NAME} \\
                  --dataset_dir {folder} \\
                  --media_dir {images} ...
                  ({INFO} there describes {file_of(rows)})
"""


def file_of(rows: Rows) -> str:
    """The name of the file that `write` writes."""
    rows, _ = in_whole(rows, np.arange(0))
    whole = isinstance(rows, JsonRows) and is_list(rows.annotations)
    return "messages.json" if whole else "messages.jsonl"


def _words_of(rows: Rows) -> Words:
    """How the pool calls turns; role and content where it has no messages."""
    rows, _ = in_whole(rows, np.arange(0))
    if not isinstance(rows, JsonRows) or not len(rows):
        return MESSAGES
    return LLAVA if is_message_record(rows[int(np.argmax(rows.has_image))], LLAVA) else MESSAGES
