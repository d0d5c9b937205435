"""A second small pool: real Parquet shards with picture bytes, several images a row, system turns.

Columns are FineVision's (`images`, `texts`, `source`, ratings), `messages` for the rows with a
system turn, as Cambrian's and LLaVA-OneVision-1.5's have them.
"""

import io
from pathlib import Path
from typing import Any

from PIL import Image

SHARDS = 2
ROWS = 11
IMAGES = (2, 3, 1, 0, 2, 1, 3, 1, 2, 0, 1)  # of every row
COLOURS = ("crimson", "navy", "gold", "teal", "black")


def picture(number: int) -> bytes:
    """A flat PNG, its size and colour by its number."""
    file = io.BytesIO()
    size = (9 + number % 5, 7 + number % 3)
    Image.new("RGB", size, COLOURS[number % len(COLOURS)]).save(file, "PNG")
    return file.getvalue()


def record(row: int) -> dict[str, Any]:
    """A row of the table, pictures as {bytes, path}; none is shared by rows."""
    first = sum(IMAGES[:row])
    pictures = [
        {"bytes": picture(number), "path": f"{number}.png"}
        for number in range(first, first + IMAGES[row])
    ]
    asked = "Compare the pictures." if IMAGES[row] > 1 else "What is this?"
    answers = [f"They differ {row} times.", "Only a little."]
    pairs = zip((asked, "Much?"), answers, strict=True)
    return {
        "images": pictures,
        "texts": [{"user": question, "assistant": answer} for question, answer in pairs],
        "source": ("chart", "doc")[row % 2],
        "visual_dependency_min": row % 4,
    }


def message_record(row: int) -> dict[str, Any]:
    """The same row as `messages` with a system turn, placeholders inside the first question."""
    flat = record(row)
    marks = " and ".join(["<image>"] * IMAGES[row])
    said = [("system", "Be brief."), ("user", f"{marks}: which?"), ("assistant", f"No. {row}")]
    messages = [{"role": role, "content": text} for role, text in said]
    return {"images": flat["images"], "messages": messages, "source": flat["source"]}


def write(folder: Path, of=record, *, row_group: int = 3) -> Path:
    """Write the pool as Parquet shards in `folder`."""
    import datasets

    features = datasets.Features(features_of(of(0)))
    dataset = datasets.Dataset.from_list([of(row) for row in range(ROWS)], features=features)
    folder.mkdir(parents=True)
    for shard in range(SHARDS):
        part = dataset.shard(SHARDS, shard, contiguous=True)
        name = f"train-{shard:05}-of-{SHARDS:05}.parquet"
        part.to_parquet(folder / name, batch_size=row_group)
    return folder


def features_of(example: dict[str, Any]) -> dict[str, Any]:
    """The features of the records of `record` or `message_record`."""
    import datasets

    text = datasets.Value("string")
    named = {"images": [datasets.Image()], "source": text}
    if "texts" in example:
        named["texts"] = [{"user": text, "assistant": text}]
    else:
        named["messages"] = [{"role": text, "content": text}]
    if "visual_dependency_min" in example:
        named["visual_dependency_min"] = datasets.Value("int64")
    return named
