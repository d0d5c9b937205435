"""Hashes of the images of a pool: of the file, for exact copies, of the picture, for near ones."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt64
from PIL import Image

from xmas.data.images.bounds import decoding, file_of
from xmas.data.images.errors import ImageError, image_error
from xmas.data.pool import Pool
from xmas.data.rows import MAX_PIXELS, PoolError
from xmas.store import Stage, Store
from xmas.store.progress import bar

_SIDE = 9  # pixels whose neighbours are compared


def difference_hash(image: Image.Image) -> UInt64[np.ndarray, "2"]:
    """128 bits: is a pixel of the 9 x 9 image brighter than its left, and its upper neighbour?

    It hardly changes with size, compression and brightness. Images without any structure all have
    one hash. Source: Krawetz, "Kind of Like That" (2013), dHash; here in both directions.
    """
    small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, dtype=np.int16)
    across = grey[:-1, 1:] > grey[:-1, :-1]
    down = grey[1:, :-1] > grey[:-1, :-1]
    return np.packbits(np.concatenate([across.ravel(), down.ravel()])).view(np.uint64)


def hashes_of(
    image: Path | bytes, max_pixels: int = MAX_PIXELS
) -> tuple[UInt8[np.ndarray, "32"], UInt64[np.ndarray, "2"]]:
    """sha256 and difference hash of an image file. Raises ImageError: it cannot be read."""
    try:
        with file_of(image, max_pixels) as file:
            content = file.read()
        with decoding(content, max_pixels) as picture:
            picture.draft("L", (8 * _SIDE, 8 * _SIDE))  # JPEGs need not be decoded in full
            picture_hash = difference_hash(picture)
    except Exception as error:  # Pillow's plugins raise what damage leads them to
        raise image_error(image, error) from error
    return np.frombuffer(hashlib.sha256(content).digest(), dtype=np.uint8), picture_hash


def all_hashes(
    images: list[Path] | list[Path | bytes], *, label: str, max_pixels: int = MAX_PIXELS
) -> tuple[UInt8[np.ndarray, "images 32"], UInt64[np.ndarray, "images 2"]]:
    """`hashes_of` of every image, with a progress bar called `label`.

    Raises:
        PoolError: an image cannot be read; the message names it.
    """
    digests = np.zeros((len(images), 32), dtype=np.uint8)
    difference_hashes = np.zeros((len(images), 2), dtype=np.uint64)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        hashes = pool.map(functools.partial(hashes_of, max_pixels=max_pixels), images)
        for number in bar(range(len(images)), label=label, unit="image"):
            try:
                digests[number], difference_hashes[number] = next(hashes)
            except ImageError as error:
                image = images[number]
                name = image if isinstance(image, Path) else f"image {number} of {label}"
                raise PoolError(
                    f"{name}: {error.reason}; {error.remedy}, leave its rows out with "
                    "pool.invalid=skip, or, for an audit, set audit.images=false"
                ) from error
    return digests, difference_hashes


def distances(
    first: UInt64[np.ndarray, "pairs 2"], second: UInt64[np.ndarray, "others 2"]
) -> Int[np.ndarray, " pairs"]:
    """In how many of 128 bits hashes differ, pair by pair or all from one."""
    return np.bitwise_count(first ^ second).sum(axis=-1, dtype=np.int64)


def near_any(
    images: UInt64[np.ndarray, "images 2"], others: UInt64[np.ndarray, "others 2"], distance: int
) -> Bool[np.ndarray, " images"]:
    """Which images differ from some other one in `distance` bits at most. All are compared."""
    near = np.zeros(len(images), dtype=bool)
    for target in np.unique(others, axis=0):
        near |= distances(images, target[None]) <= distance
    return near


@dataclasses.dataclass(frozen=True)
class ImageHashes(Stage):
    """`sha256.npy` (pictures, 32) uint8 and `seen.npy` (pictures, 2) uint64, the difference hash,
    by the pool's pictures.
    """

    kind: ClassVar[str] = "image_hashes"

    pool: Pool

    def compute(self, store: Store, out: Path) -> None:
        """Raises PoolError: an image is missing or cannot be read."""
        examples = self.pool.open(store)
        pictures = [examples.picture(number) for number in range(len(examples.picture_names))]
        digests, difference_hashes = all_hashes(
            pictures, label="image hashes", max_pixels=examples.max_pixels
        )
        np.save(out / "sha256.npy", digests)
        np.save(out / "seen.npy", difference_hashes)
