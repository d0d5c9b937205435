"""All images of a pool that cannot be used, found in one pass, with every row that names one."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from xmas.data.faults import NAMED, Fault, id_of, refusal, write
from xmas.data.images.errors import ImageError
from xmas.data.images.files import open_image
from xmas.data.rows import PoolError, Rows
from xmas.store.progress import bar

REPORT = "faults.jsonl"
THREADS = 16  # reading and decoding wait for the disk more than for each other


class BrokenImageError(PoolError):
    """The image of a row cannot be read; the message names annotation file, row and image."""


def read_picture(examples: Rows, number: int, row: int | None = None) -> Image.Image:
    """A picture of a pool, decoded.

    Args:
        number: its position in `picture_names`.
        row: that shows it, for messages; None: the first one.

    Raises BrokenImageError naming annotation file, row and image.
    """
    try:
        return open_image(examples.picture(number), examples.max_pixels)
    except ValueError as error:
        if row is None:
            row = int(examples.shown.row_of_image[examples.shown.first_image[number]])
        place = f"{examples.annotations}: row {examples.file_row(row)}"
        raise BrokenImageError(f"{place}: {error}") from error


def fault_of(examples: Rows, picture: int) -> ImageError | None:
    """Why an image cannot be used, None if it can. Decodes all of it, since it may be cut short.

    Args:
        picture: its position in `picture_names`.
    """
    try:
        open_image(examples.picture(picture), examples.max_pixels)
    except ImageError as error:
        return error
    return None


def broken_images(examples: Rows, *, threads: int = THREADS, label: str = "images") -> list[Fault]:
    """The faults of all rows whose image cannot be used; every distinct image is decoded once."""
    count = len(examples.picture_names)
    errors: dict[int, ImageError] = {}
    with ThreadPoolExecutor(threads) as decoders:
        checks = decoders.map(lambda picture: fault_of(examples, picture), range(count))
        for picture, error in enumerate(bar(checks, total=count, label=label, unit="image")):
            if error is not None:
                errors[picture] = error
    return image_faults(examples, errors)


def image_faults(examples: Rows, errors: dict[int, ImageError]) -> list[Fault]:
    """A fault for every row with one of these pictures, the first of a row, in their order."""
    broken = np.zeros(len(examples.picture_names), dtype=bool)
    broken[list(errors)] = True
    faults = []
    for row in np.flatnonzero(examples.shown.rows_with(broken)).tolist():
        picture = next(number for number in examples.shown[row].tolist() if number in errors)
        error, name = errors[picture], examples.picture_names[int(picture)]
        row_id, number = id_of(examples[row].get("id")), examples.file_row(row)
        faults.append(Fault(number, row_id, name, error.kind, str(error)))
    return faults


@contextlib.contextmanager
def all_named(examples: Rows, out: Path) -> Iterator[None]:
    """When the work inside meets a broken image, find all of them and name them at once.

    Args:
        out: the draft of the stage, where the file with all of them is written.

    Raises:
        FaultyRowsError: an image was broken.
    """
    try:
        yield
        (out / REPORT).unlink(missing_ok=True)  # of an earlier attempt
    except BrokenImageError as error:
        faults = broken_images(examples, label="broken images")
        if not faults:
            raise
        raise refuse(examples, faults, out / REPORT) from error


def refuse(examples: Rows, faults: Sequence[Fault], report: Path) -> PoolError:
    """The error for broken images, whose list it writes to `report`."""
    return refusal(examples.annotations, len(examples), faults, report=write(faults, report))


def shown(messages: Iterable[object]) -> str:
    """The first few of some messages, and how many more there are."""
    texts = [str(message) for message in messages]
    more = f"; and {len(texts) - NAMED:,} more" if len(texts) > NAMED else ""
    return "; ".join(texts[:NAMED]) + more
