"""Why an image file cannot be read, in words: with a kind to count by, and a remedy."""

import glob
import os
from pathlib import Path

from PIL import UnidentifiedImageError

from xmas.data.images.bounds import name_of
from xmas.data.images.paths import ImageError

_HEAD = 24  # bytes shown of a file that is no image: enough to tell a web page, a pointer, an error


def image_error(image: Path | bytes, error: Exception) -> ImageError:
    """What an error says about an image file or its bytes, with what there is instead."""
    if isinstance(error, ImageError):
        return error
    if isinstance(image, bytes):
        return ImageError(name_of(image), *_of_content(image[:_HEAD], len(image), error))
    if isinstance(error, OSError) and error.errno is not None:
        return ImageError(str(image), *_of_place(image, error))
    size = image.stat().st_size
    with image.open("rb") as file:
        head = file.read(_HEAD)
    return ImageError(str(image), *_of_content(head, size, error))


def _of_place(path: Path, error: OSError) -> tuple[str, str]:
    if path.is_symlink() and not path.exists():
        return "dead link", f"is a link to {os.readlink(path)}, which is not there"
    if path.is_dir():
        return "a folder", "is a folder, expected a file"
    if path.exists():
        return "image may not be read", error.strerror or str(error)
    return "image missing", missing(path)


def missing(path: Path) -> str:
    """That a file is missing, and what is there under almost its name."""
    if "\\" in path.name and (slashed := Path(str(path).replace("\\", "/"))).is_file():
        return f"missing, but {slashed} is there: write the path with / in the annotations"
    similar = sorted(file.name for file in path.parent.glob(f"{glob.escape(path.stem)}.*"))
    if not similar and path.parent.is_dir():
        folded = path.name.casefold()
        similar = sorted(
            file.name for file in path.parent.iterdir() if file.name.casefold() == folded
        )
    return f"missing, but {similar[0]} is there: rename it" if similar else "missing"


def _of_content(head: bytes, size: int, error: Exception) -> tuple[str, str]:
    if size == 0:
        return "image empty", "an empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image", f"{error}; it begins with {head!r}"
    return "image damaged", str(error) or type(error).__name__
