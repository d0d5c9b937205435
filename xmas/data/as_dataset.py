"""Rows of an opened pool as a `datasets.Dataset`, for trainers in Python."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from xmas.data.chosen_rows import in_whole
from xmas.data.datasets_by_name import dataset_of, is_dataset
from xmas.data.rows import Rows
from xmas.data.tables.arrow_rows import ArrowRows
from xmas.data.tables.shards import files_of


def as_dataset(rows: Rows, chosen: Int[np.ndarray, " chosen"]) -> Any:
    """The `chosen` rows, in this order.

    Of a pool that is a dataset its own rows and columns, selected by number and not copied; shards
    of Parquet are converted once by `datasets`, in its cache. Of any other pool a row is `images`
    and `messages`, as TRL reads them: paths, and texts with a placeholder for each image.

    Raises ModuleNotFoundError: `datasets` is not installed.
    """
    import datasets

    rows, chosen = in_whole(rows, chosen)
    if isinstance(rows, ArrowRows):
        return _whole(rows.annotations, rows.split).select(chosen)
    features = {
        "images": [datasets.Image()],
        "messages": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
        "source": datasets.Value("string"),
    }
    records = [_record(rows, row) for row in chosen.tolist()]
    return datasets.Dataset.from_list(records, features=datasets.Features(features))


def _record(rows: Rows, row: int) -> dict[str, Any]:
    images = [
        {"bytes": image, "path": None} if isinstance(image, bytes) else {"path": str(image)}
        for image in rows.images_of(row)
    ]
    messages = [{"role": turn.role, "content": turn.written()} for turn in rows.turns(row)]
    return {"images": images, "messages": messages, "source": str(rows.sources[row])}


def _whole(path: Path, split: str | None) -> Any:
    """All rows of a pool's dataset, in its order."""
    import datasets

    if is_dataset(str(path)):
        return dataset_of(str(path), split)
    files = [str(file) for file in files_of(path, split)]
    if files[0].endswith(".parquet"):
        return datasets.load_dataset("parquet", data_files=files, split="train")
    return datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in files])
