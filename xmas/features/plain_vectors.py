"""A vector for every row that no model has made: colours of its picture, words of its text.

It is independent of every selector's features, so that what they cover can be measured by it.
"""

import concurrent.futures
import dataclasses
import functools
import os
import re
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from PIL import Image

from xmas.data.images.bounds import decoding
from xmas.data.images.errors import ImageError, image_error
from xmas.data.pool import Pool
from xmas.data.rows import PoolError, Rows
from xmas.store import Stage, Store
from xmas.store.progress import bar

SIDE = 8  # pixels of a thumbnail
WORDS = 256  # numbers that words are hashed to


@dataclasses.dataclass(frozen=True)
class PlainVectors(Stage):
    """`values.npy` (rows, 448) float32 of length 1: an 8 x 8 thumbnail in RGB of the first picture,
    without its mean over the pool, and the hashed words of the text, weighted by how rare they are.

    Picture and text count equally; of a row without a picture its text alone.
    """

    kind: ClassVar[str] = "plain_vectors"

    pool: Pool

    def compute(self, store: Store, out: Path) -> None:
        """Raises PoolError: an image cannot be read."""
        examples = self.pool.open(store)
        thumbnails = _thumbnails(examples)
        pictures = np.zeros((len(examples), 3 * SIDE * SIDE), dtype=np.float32)
        has = examples.has_image
        pictures[has] = thumbnails[examples.shown.first[has]]
        if has.any():
            pictures[has] -= pictures[has].mean(axis=0)
        values = np.concatenate([unit(pictures), unit(_words(examples))], axis=1)
        np.save(out / "values.npy", unit(values))


def unit(vectors: Float[np.ndarray, "rows d"]) -> Float[np.ndarray, "rows d"]:
    """Vectors of length 1; one of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _thumbnails(examples: Rows) -> Float[np.ndarray, "pictures d"]:
    count = len(examples.picture_names)
    thumbnails = np.zeros((count, 3 * SIDE * SIDE), dtype=np.float32)
    pictures = map(examples.picture, range(count))
    small = functools.partial(_thumbnail, max_pixels=examples.max_pixels)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        made = pool.map(small, pictures)
        for number in bar(range(count), label="thumbnails", unit="image"):
            try:
                thumbnails[number] = next(made)
            except ImageError as error:
                name = examples.picture_names[number]
                raise PoolError(
                    f"{name}: {error.reason}; {error.remedy}, or leave its rows out with "
                    "pool.invalid=skip"
                ) from error
    return thumbnails


def _thumbnail(image: Path | bytes, max_pixels: int) -> Float[np.ndarray, " d"]:
    try:
        with decoding(image, max_pixels) as picture:
            picture.draft("RGB", (8 * SIDE, 8 * SIDE))
            small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    except Exception as error:  # Pillow's plugins raise what damage leads them to
        raise image_error(image, error) from error
    return np.asarray(small, dtype=np.float32).ravel() / 255


def _words(examples: Rows) -> Float[np.ndarray, "rows words"]:
    """Roots of how often a row has words of each number, times log(rows / rows with it)."""
    counts = np.zeros((len(examples), WORDS), dtype=np.float32)
    for row in bar(range(len(examples)), label="words"):
        text = " ".join(part for turn in examples.conversation(row) for part in turn)
        for word in re.findall(r"\w+", text.lower()):
            counts[row, zlib.crc32(word.encode()) % WORDS] += 1
    rarity = np.log((1 + len(examples)) / (1 + (counts > 0).sum(axis=0)))
    return np.sqrt(counts) * rarity.astype(np.float32)
