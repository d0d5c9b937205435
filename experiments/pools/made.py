"""Pools that are made up, of any number of rows: LLaVA's JSON, and Parquet in FineVision's columns.

Conversations are words drawn from a list, in LLaVA-665k's lengths; images are names of files that
need not exist, or tiny pictures that rows share.
"""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

SOURCES = ("coco", "gqa", "ocr_vqa", "textvqa", "vg")
_WORDS = np.array([f"word{number}" for number in range(997)] + ["straße", "naïve", '"so"'])


class Texts:
    """Texts of drawn words: pieces of a long one."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.long = " ".join(_WORDS[rng.integers(0, len(_WORDS), 1 << 16)])

    def __call__(self, characters: int) -> str:
        start = int(self.rng.integers(0, len(self.long) - characters))
        return self.long[start : start + characters]


def llava_json(path: Path, rows: int) -> Path:
    """A JSON list in ASCII of about 1.6 kB a row, as LLaVA-665k's; 6 % of the rows are text."""
    rng = np.random.default_rng(0)
    text = Texts(rng)
    rounds = 1 + rng.poisson(3.2, rows)
    pictured = rng.random(rows) > 0.06
    source = rng.integers(0, len(SOURCES), rows)
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for row in range(rows):
            turns = []
            for number in range(int(rounds[row])):
                opening = "<image>\n" if pictured[row] and not number else ""
                turns.append({"from": "human", "value": opening + text(40 + row % 37)})
                turns.append({"from": "gpt", "value": text(120 + row % 263)})
            record: dict = {"id": f"{row:012}"}
            if pictured[row]:
                name = SOURCES[source[row]]
                record["image"] = f"{name}/train2017/{int(row * 0.55):012}.jpg"
            record["conversations"] = turns
            file.write(", " * bool(row) + json.dumps(record))
        file.write("]")
    return path


def picture(number: int) -> bytes:
    """A tiny PNG, about 75 bytes."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, 90, 160)).save(file, "PNG")
    return file.getvalue()


def parquet(
    folder: Path, rows: int, *, shard: int = 250_000, group: int = 10_000, stored: bool = False
) -> Path:
    """Shards in FineVision's columns; an image is a path, or with `stored` a tiny picture.

    A tenth of the rows has no image and a tenth two. Texts are parts of one long text of drawn
    words, so that making ten million rows takes a minute.
    """
    import pyarrow.compute
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    long = np.frombuffer(Texts(rng).long.encode("ascii", "replace"), dtype=np.uint8)
    shards = -(-rows // shard)
    for number in range(shards):
        first = number * shard
        count = min(shard, rows - first)
        row = np.arange(first, first + count)
        images = np.array([0, 2, *[1] * 8])[row % 10]
        ends = np.concatenate([[0], np.cumsum(images)]).astype(np.int32)
        if stored:
            pictures = pyarrow.array([picture(n) for n in range(256)], pyarrow.binary())
            content = pictures.take(rng.integers(0, 256, ends[-1]))
            paths = pyarrow.nulls(int(ends[-1]), pyarrow.string())
        else:
            content = pyarrow.nulls(int(ends[-1]), pyarrow.binary())
            digits = pyarrow.array(first + np.arange(ends[-1])).cast(pyarrow.string())
            paths = pyarrow.compute.binary_join_element_wise("web/", digits, ".jpg", "")
        image = pyarrow.StructArray.from_arrays([content, paths], ["bytes", "path"])
        rounds = 1 + (row % 2)
        pairs = [_cuts(long, rng, int(rounds.sum()), length) for length in (40, 90)]
        texts = pyarrow.StructArray.from_arrays(pairs, ["user", "assistant"])
        turns = np.concatenate([[0], np.cumsum(rounds)]).astype(np.int32)
        names = pyarrow.array(list(SOURCES))
        table = pyarrow.table(
            {
                "images": pyarrow.ListArray.from_arrays(ends, image),
                "texts": pyarrow.ListArray.from_arrays(turns, texts),
                "source": names.take(rng.integers(0, len(SOURCES), count)),
                "relevance_ratings": pyarrow.ListArray.from_arrays(
                    turns, pyarrow.array(rng.integers(1, 6, len(texts)))
                ),
                "visual_dependency_min": rng.integers(1, 6, count),
            }
        )
        name = f"train-{number:05}-of-{shards:05}.parquet"
        pyarrow.parquet.write_table(table, folder / name, row_group_size=group)
    return folder


def _cuts(long: np.ndarray, rng: np.random.Generator, count: int, length: int):
    """Arrow texts of `length` characters, at drawn places of a long one."""
    import pyarrow

    starts = rng.integers(0, len(long) - length, count)
    content = long[starts[:, None] + np.arange(length)].tobytes()
    ends = np.arange(count + 1, dtype=np.int32) * length
    buffers = [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(content)]
    return pyarrow.Array.from_buffers(pyarrow.string(), count, buffers)
