"""ms-swift's standard form: `swift.jsonl`, messages of role and content and the list `images`."""

import shlex
from pathlib import Path

import numpy as np
from jaxtyping import Int

from xmas.data.chosen_rows import in_whole
from xmas.data.images.picture_files import PictureFiles, image_folder
from xmas.data.json_files.json_file import JsonFile
from xmas.data.records.of_trainers import message_record
from xmas.data.rows import Rows

FILE = "swift.jsonl"


def write(rows: Rows, chosen: Int[np.ndarray, " chosen"], folder: Path) -> None:
    """Raises PoolError: a row without a picture has an image placeholder in its text."""
    write_records(rows, chosen, folder, folder / FILE)


def write_records(
    rows: Rows,
    chosen: Int[np.ndarray, " chosen"],
    folder: Path,
    file: Path,
    *,
    indexed: bool = False,
) -> None:
    """Write messages into a `JsonFile`, and pictures that are no files into `folder`.

    Args:
        indexed: see `JsonFile`.
    """
    rows, chosen = in_whole(rows, chosen)
    pictures = PictureFiles(rows, folder)
    with JsonFile(file, indexed=indexed) as records:
        for row in map(int, chosen):
            records.add(message_record(rows, row, pictures.names(row)))


def training(rows: Rows, place: Path) -> str:
    """Commands for `README.txt`."""
    images = shlex.quote(str(image_folder(rows, place)))
    return f"""\
ms-swift   ROOT_IMAGE_DIR={images} \\
             swift sft --dataset {shlex.quote(str(place / FILE))} ...
"""
