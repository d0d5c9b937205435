"""LLaVA's format: `instructions.json`, a JSON list that LLaVA, LLaVA-NeXT, TinyLLaVA and Qwen-VL's
fine-tuning read. LLaVA-NeXT's registry is `llava_next.yaml`.
"""

import json
import shlex
from pathlib import Path

import numpy as np
from jaxtyping import Int

from xmas.data.chosen_rows import in_whole
from xmas.data.images.picture_files import PictureFiles, image_folder
from xmas.data.json_files.json_file import JsonFile
from xmas.data.readers.llava import LlavaRows
from xmas.data.records.of_trainers import llava_record
from xmas.data.rows import Rows

FILE = "instructions.json"
NEXT = "llava_next.yaml"


def write(rows: Rows, chosen: Int[np.ndarray, " chosen"], folder: Path) -> list[str]:
    """Write the `chosen` rows as a JSON list: byte for byte where the pool is in LLaVA's format.

    Raises PoolError: a row of another format has an image placeholder in its text.
    """
    return write_records(rows, chosen, folder, folder / FILE, nulls=True)


def write_records(
    rows: Rows,
    chosen: Int[np.ndarray, " chosen"],
    folder: Path,
    file: Path,
    *,
    nulls: bool = False,
    indexed: bool = False,
) -> list[str]:
    """Write LLaVA's records into a `JsonFile`, and pictures that are no files into `folder`.

    Args:
        nulls: leave `"image": null` in a record that has it, though trainers' loaders want a name.
        indexed: see `JsonFile`.
    """
    rows, chosen = in_whole(rows, chosen)
    pictures = PictureFiles(rows, folder)
    with_system = 0
    with JsonFile(file, indexed=indexed) as records:
        for row in map(int, chosen):
            record = _record(rows, row, pictures, nulls=nulls)
            with_system += _has_system(record)
            records.add(record)
    return _remarks(int((rows.shown.counts[chosen] > 1).sum()), with_system)


def registry(rows: Rows, count: int, place: Path) -> dict[str, str]:
    """LLaVA-NeXT's list of files."""
    return {NEXT: next_yaml(place / FILE)}


def next_yaml(file: Path) -> str:
    """LLaVA-NeXT's list of this one file."""
    path = json.dumps(str(file), ensure_ascii=False)
    return f'datasets:\n  - json_path: {path}\n    sampling_strategy: "all"\n'


def training(rows: Rows, place: Path) -> str:
    """Commands for `README.txt`."""
    entry = {"annotation_path": str(place / FILE), "data_path": str(image_folder(rows, place))}
    return f"""\
LLaVA        {command(rows, place / FILE)}
LLaVA-NeXT   {command(rows, place / NEXT)}
Qwen-VL      in qwenvl/data/__init__.py: {json.dumps(entry, ensure_ascii=False)}
"""


def command(rows: Rows, file: Path) -> str:
    """How LLaVA and LLaVA-NeXT train on a file."""
    images = shlex.quote(str(image_folder(rows, file.parent)))
    return (
        f"deepspeed llava/train/train_mem.py --data_path {shlex.quote(str(file))} \\\n"
        f"               --image_folder {images} ..."
    )


def _remarks(several: int, with_system: int) -> list[str]:
    """Which loaders do not read the records as they are meant: `several` have more than one picture
    and `with_system` a system turn.
    """
    sentences = {
        f"Several pictures in {several:,} of these rows (a list under `image`): LLaVA-NeXT, "
        "Qwen-VL and InternVL read them, LLaVA-1.5's loader does not.": several,
        f"A system turn in {with_system:,} of these rows: InternVL reads it, LLaVA's and "
        "LLaVA-NeXT's loaders end with an error, Qwen-VL's takes it for an answer; [messages], "
        "[swift] and [trl] are read as they are meant.": with_system,
    }
    return [sentence for sentence, count in sentences.items() if count]


def _has_system(record: bytes) -> bool:
    if b'"system"' not in record:
        return False
    return json.loads(record)["conversations"][0]["from"] == "system"


def _record(rows: Rows, row: int, pictures: PictureFiles, *, nulls: bool) -> bytes:
    if not isinstance(rows, LlavaRows) or rows.columns or not rows.all_in_files:
        return llava_record(rows, row, pictures.names(row))
    raw = rows.raw(row)
    if b'"images"' not in raw and (nulls or b"null" not in raw):
        return raw
    record = json.loads(raw)
    if images := record.pop("images", None):
        record["image"] = images[0] if len(images) == 1 else images
    elif nulls or record.get("image", "") is not None:
        return raw
    else:
        del record["image"]
    return json.dumps(record, ensure_ascii=False).encode()
