"""All images of a pool that cannot be used, found in one pass, with every row that names one."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from xmas.data.faults import NAMED, Fault, id_of, refusal, write
from xmas.data.image_errors import ImageError
from xmas.data.image_files import open_image
from xmas.data.rows import PoolError, Rows
from xmas.store.progress import bar

REPORT = "faults.jsonl"
THREADS = 16  # reading and decoding wait for the disk more than for each other


class BrokenImageError(PoolError):
    """The image of a row cannot be read; the message names annotation file, row and image."""


def fault_of(examples: Rows, picture: int) -> ImageError | None:
    """Why an image cannot be used, None if it can. Decodes all of it, since it may be cut short.

    Args:
        picture: its position in `picture_names`.
    """
    try:
        open_image(examples.picture_path(picture), examples.max_pixels)
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
    """A fault for every row with one of these pictures, in the order of the rows."""
    return [
        Fault(
            row,
            id_of(examples[row].get("id")),
            examples.picture_names[picture],
            error.kind,
            str(error),
        )
        for row in np.flatnonzero(np.isin(examples.picture, list(errors))).tolist()
        for picture in [int(examples.picture[row])]
        for error in [errors[picture]]
    ]


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
