"""Where image names lead: below the folder that they are relative to, or outside it.

Names come with a pool or a benchmark from anywhere. `../../etc/passwd`, an absolute path, or a link
that an archive had in it would have a file of this machine decoded, hashed, or shown in a report.
"""

import functools
import os
from pathlib import Path

OUTSIDE = "outside the image folder"
REPLACE = "replace the file or remove its rows"


class ImageError(ValueError):
    """An image cannot be read. `kind` is the same for all images with this fault."""

    def __init__(self, name: str, kind: str, reason: str, remedy: str = REPLACE) -> None:
        super().__init__(f"image {name}: {reason}; {remedy}")
        self.kind = kind
        self.reason = reason
        self.remedy = remedy


def path_below(folder: Path, name: str, *, remedy: str) -> Path:
    """The path of an image that a file names, which is below `folder` with all links followed.

    Raises ImageError: it is not; `remedy` ends the message.
    """
    path = folder / name
    root = _real(os.path.join(os.getcwd(), folder))
    parent, last = os.path.split(
        os.path.join(os.getcwd(), path)
    )  # `..` stays: it may follow a link
    real = os.path.join(_real(parent), last)
    if last == ".." or os.path.islink(real):
        real = os.path.realpath(real)
    if not real.startswith(root.rstrip(os.sep) + os.sep):
        raise ImageError(name, OUTSIDE, f"leads to {real}, outside {folder}", remedy)
    return path


@functools.lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    """A folder with links followed: thousands of images are in one."""
    return os.path.realpath(folder)
