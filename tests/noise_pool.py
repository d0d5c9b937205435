"""A pool of noise: every row has its own picture and text, so that all copies are planted ones."""

import json
from pathlib import Path

import numpy as np
import toy
from PIL import Image

from xmas.data.pool import Pool

ROWS, TEXT_ONLY = 307, 23
SOURCES = ("aerial", "books", "charts")  # with 5, 3 and 2 of 10 rows


def write(folder: Path, rows: int = ROWS) -> Pool:
    """Write annotations and pictures into `folder`."""
    rng = np.random.default_rng(5)
    (folder / "images").mkdir(parents=True)
    records = []
    for row in range(rows):
        source = SOURCES[int(np.searchsorted([5, 8, 10], row % 10, side="right"))]
        words = " ".join(f"w{number}" for number in rng.integers(0, 997, 2 + row % 29))
        answer = f"{('red', 'green', 'blue')[row % 3]} {row % 7}"
        record = {"id": str(row), "source": source}
        if row >= TEXT_ONLY:
            (folder / "images" / source).mkdir(exist_ok=True)
            noise = rng.integers(0, 255, (7, 7, 3), dtype=np.uint8)
            picture = Image.fromarray(noise).resize((28, 21), Image.Resampling.NEAREST)
            record["image"] = f"{source}/{row}.png"
            picture.save(folder / "images" / record["image"])
            words = f"<image>\n{words}"
        said = [words, answer] if row % 4 else [words, answer, "And then?", f"{row} more"]
        records.append(record | {"conversations": toy.turns(*said)})
    (folder / "pool.json").write_text(json.dumps(records))
    return Pool(str(folder / "pool.json"), str(folder / "images"), name="noise")
