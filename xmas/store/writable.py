"""Stores that can be read and not written, such as one on a read-only mount or of another user.

Finished results of such a store are as good as any: nothing is written to use them, no lock, no
link. What would be written next to them goes elsewhere, or is left out where it is for people only.
"""

import os
from pathlib import Path


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or else in the nearest one above it that exists."""
    nearest = folder
    while not os.path.isdir(nearest):
        nearest = nearest.absolute().parent
    return os.access(nearest, os.W_OK | os.X_OK)


def check_writable(folder: Path, *, result: str) -> None:
    """Raise PermissionError where a result would be computed in a folder that is read-only."""
    if not is_writable(folder):
        raise PermissionError(
            f"{folder} cannot be written, and has no finished result {result}: make the store "
            "writable, or compute in another one with store.root=DIR"
        )
