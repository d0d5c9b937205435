"""Megatron-Energon's crude samples: `energon.jsonl` with messages and `images`, its index, and
`energon.yaml`, the metadataset that adds the folder of the pictures.

JSON lines have an index in place of a folder `.nv-meta`, which is of tar shards.
"""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Int

from xmas.data.images.picture_files import image_folder
from xmas.data.rows import Rows
from xmas.data.writers import swift

FILE = "energon.jsonl"
YAML = "energon.yaml"


def write(rows: Rows, chosen: Int[np.ndarray, " chosen"], folder: Path) -> None:
    """Raises PoolError: a row without a picture has an image placeholder in its text."""
    swift.write_records(rows, chosen, folder, folder / FILE, indexed=True)


def registry(rows: Rows, count: int, place: Path) -> dict[str, str]:
    """Energon's metadataset."""
    return {YAML: metadataset(FILE, image_folder(rows, place))}


def metadataset(file: str, images: Path) -> str:
    """A metadataset of a file next to it, with a folder of pictures."""
    return f"""\
__module__: megatron.energon
__class__: MetadatasetV2
splits:
  train:
    path: ./{file}
    subset: {{range: ["0%", "100%"]}}
    aux:
      images: {json.dumps(f"filesystem://{images}", ensure_ascii=False)}
"""


def training(rows: Rows, place: Path) -> str:
    """Commands for `README.txt`."""
    return f"""\
Megatron-Energon   get_train_dataset({json.dumps(str(place / YAML))}, task_encoder=..., ...)
                   A cooker has sample["json"], with "messages" and "images", and its argument
                   `images` gives a picture: images.get(name, sample).
"""
