"""InternVL's form: `internvl.jsonl`, LLaVA's records a line, and its registry
`internvl_meta.json`.
"""

import json
import shlex
from pathlib import Path

import numpy as np
from jaxtyping import Int

from xmas.data.images.picture_files import image_folder
from xmas.data.rows import Rows
from xmas.data.writers import llava

FILE = "internvl.jsonl"
META = "internvl_meta.json"


def write(rows: Rows, chosen: Int[np.ndarray, " chosen"], folder: Path) -> list[str]:
    """Raises PoolError: see `writers.llava`."""
    return llava.write_records(rows, chosen, folder, folder / FILE)


def registry(rows: Rows, count: int, place: Path) -> dict[str, str]:
    """InternVL's meta file."""
    return {META: meta(rows, place / FILE, count)}


def meta(rows: Rows, file: Path, count: int) -> str:
    """InternVL's description of a file of `count` rows, all of which are used."""
    entry = {
        "root": f"{image_folder(rows, file.parent)}/",
        "annotation": str(file),
        "data_augment": False,
        "repeat_time": 1,
        "length": count,
    }
    return json.dumps({"subset": entry}, indent=2, ensure_ascii=False) + "\n"


def training(rows: Rows, place: Path) -> str:
    """Commands for `README.txt`."""
    meta_path = shlex.quote(str(place / META))
    return f"""\
InternVL   torchrun internvl/train/internvl_chat_finetune.py --meta_path {meta_path} ...
"""
