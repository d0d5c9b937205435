"""Open image files that nobody has vouched for: regular files, common formats, a bounded size.

Images come with a pool from anywhere. What is refused here is refused before it is decoded: devices
and FIFOs, which never end; formats that start other programs (EPS starts Ghostscript) or whose
decoders are rarely used; and files that unpack to more pixels than the pool allows.
"""

import contextlib
import io
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from xmas.data.images.paths import ImageError
from xmas.data.rows import MAX_PIXELS
from xmas.store.integrity import checked_content

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_BYTES = 8  # of a file for each allowed pixel, at most: four channels of 16 bits, not compressed
_HEAD = 16  # bytes by which Pillow tells formats
_KINDS = ((stat.S_ISFIFO, "FIFO"), (stat.S_ISSOCK, "socket"), (lambda mode: True, "device"))


@contextlib.contextmanager
def bounded(image: Path | bytes, max_pixels: int = MAX_PIXELS) -> Iterator[ImageFile]:
    """An image of which only the header was read.

    Raises:
        ImageError: it is no regular file, or too large.
        UnidentifiedImageError: it is of none of `FORMATS`.
        OSError: the file is missing or may not be read.
    """
    with file_of(image, max_pixels) as file, _identified(file) as picture:
        if picture.width * picture.height > max_pixels:
            raise ImageError(
                name_of(image),
                "image too large",
                f"{picture.width} x {picture.height} pixels, more than "
                f"pool.max_pixels={max_pixels}",
                "shrink the file, remove its rows, or raise pool.max_pixels",
            )
        yield picture


@contextlib.contextmanager
def decoding(image: Path | bytes, max_pixels: int = MAX_PIXELS) -> Iterator[ImageFile]:
    """As `bounded`, and waits until there is memory for its pixels next to those that other
    threads decode.
    """
    with (
        bounded(image, max_pixels) as picture,
        _in_flight.reserve(picture.width * picture.height),
    ):
        yield picture


def file_of(image: Path | bytes, max_pixels: int = MAX_PIXELS) -> io.BufferedReader | io.BytesIO:
    """An image's file, opened to be read, or its bytes as a file.

    Raises:
        ImageError: it is no regular file, or larger than any image with this many pixels.
        DamagedResultError: it is in a result of the store, and not what was written.
        OSError: the file is missing, a folder, or may not be read.
    """
    if isinstance(image, bytes):
        return io.BytesIO(image)
    status = image.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        kind = next(name for is_kind, name in _KINDS if is_kind(status.st_mode))
        raise ImageError(
            str(image),
            "not a regular file",
            f"is a {kind}, expected a regular file",
        )
    if status.st_size > _BYTES * max_pixels:
        raise ImageError(
            str(image),
            "image too large",
            f"{status.st_size:,} bytes, more than {_BYTES} a pixel of pool.max_pixels={max_pixels}",
            "shrink the file, remove its rows, or raise pool.max_pixels",
        )
    content = checked_content(image)
    return image.open("rb") if content is None else io.BytesIO(content)


def name_of(image: Path | bytes) -> str:
    """An image in messages."""
    return f"{len(image)} bytes" if isinstance(image, bytes) else str(image)


def _identified(file: io.BufferedReader | io.BytesIO) -> ImageFile:
    """As `PIL.Image.open`, whose limit of pixels is one for the whole process, without it."""
    Image.preinit()
    head = file.read(_HEAD)
    for name in FORMATS:
        if name not in Image.OPEN:
            Image.init()
        if name not in Image.OPEN:  # AVIF before Pillow 11.3
            continue
        factory, accepts = Image.OPEN[name]
        if accepts is None or accepts(head) is True:
            file.seek(0)
            try:
                return factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue
    raise UnidentifiedImageError(
        f"cannot identify image file: none of the formats {', '.join(FORMATS)}"
    )


class _InFlight:
    """Pixels that the threads of a process decode at a time; one larger image waits to be alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pixels = 0
        self._freed = threading.Condition()

    @contextlib.contextmanager
    def reserve(self, pixels: int) -> Iterator[None]:
        with self._freed:
            self._freed.wait_for(lambda: not self._pixels or self._pixels + pixels <= self._limit)
            self._pixels += pixels
        try:
            yield
        finally:
            with self._freed:
                self._pixels -= pixels
                self._freed.notify_all()


_in_flight = _InFlight(1 << 28)  # pixels: some 2 GiB, in their own mode and in RGB
