"""Read image files: decoded in RGB, or their size alone. Every error names the file."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from xmas.data.images.bounds import bounded, decoding
from xmas.data.images.errors import image_error
from xmas.data.rows import MAX_PIXELS


def open_image(image: Path | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The decoded image of a file or its bytes, in RGB.

    Raises:
        ImageError: a ValueError: the file is missing, truncated, no image, or too large; names it.
    """
    with decoded(image, max_pixels) as picture:
        return picture.convert("RGB")


def image_size(image: Path | bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width in pixels, from the header of the file.

    Raises:
        ImageError: a ValueError: the file is missing, no image, or too large; names it.
    """
    try:
        with bounded(image, max_pixels) as picture:
            return picture.height, picture.width
    except Exception as error:
        raise image_error(image, error) from error


@contextlib.contextmanager
def decoded(image: Path | bytes, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """An image in its own mode, decoded as it is used. Raises ImageError: as `open_image`."""
    try:
        with decoding(image, max_pixels) as picture:
            yield picture
    except Exception as error:  # Pillow's plugins raise what damage leads them to, e.g. IndexError
        raise image_error(image, error) from error
