"""The whole pool, best first, so that any budget is a beginning of one file: `ranked.jsonl`,
LLaVA's records, with the registries of LLaVA-NeXT, InternVL and Megatron-Energon.
"""

import shlex
from pathlib import Path

import numpy as np
from jaxtyping import Int

from xmas.data.images.picture_files import image_folder
from xmas.data.rows import Rows
from xmas.data.writers import energon, internvl, llava

FILE = "ranked.jsonl"
RANKED = True  # `write` gets every row that the subset's rules allow, best first


def write(rows: Rows, chosen: Int[np.ndarray, " chosen"], folder: Path) -> list[str]:
    """Raises PoolError: see `writers.llava`."""
    return llava.write_records(rows, chosen, folder, folder / FILE, indexed=True)


def registry(rows: Rows, count: int, place: Path) -> dict[str, str]:
    """Those of all trainers that can take the beginning of a file."""
    return {
        llava.NEXT: llava.next_yaml(place / FILE),
        internvl.META: internvl.meta(rows, place / FILE, count),
        energon.YAML: energon.metadataset(FILE, image_folder(rows, place)),
    }


def training(rows: Rows, place: Path) -> str:
    """Commands for `README.txt`."""
    meta = shlex.quote(str(place / internvl.META))
    return f"""\
The first rows of {FILE} are the subset of any budget; of 20 %, for example:
LLaVA-NeXT   sampling_strategy: "first:20%" in {llava.NEXT}, which it rounds up, or "first:N", then
             {llava.command(rows, place / llava.NEXT)}
InternVL     "repeat_time": 0.2 in {internvl.META}, which it rounds down, then
             torchrun internvl/train/internvl_chat_finetune.py --meta_path {meta} ...
Energon      range: ["0%", "20%"] in {energon.YAML}
Others       head -n N {FILE}
"""
