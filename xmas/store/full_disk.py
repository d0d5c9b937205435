"""A full disk, in words: which file was being written, how much of it, and what is free.

The system's error names no file where a file that is open is written to, and libraries say it each
in their own words: numpy "4000 requested and 512 written", torch "PytorchStreamWriter failed".
"""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT}
_LITTLE = 1 << 20  # free bytes with which an error without a number is taken for a full disk
_RECORDS = {"attempts.json", "error.txt", "stage.json"}  # of a draft, written after an error too


def full_disk(error: Exception, place: Path) -> OSError | None:
    """What is said where an error came of a full disk and does not say so; None of any other.

    Args:
        error: of what was written.
        place: the file that was written, or the folder with it.
    """
    if not _is_full(error, place) or "disk is full" in str(error):
        return None
    path = _last_written(place)
    written = path.stat().st_size if path.is_file() else 0
    return OSError(
        errno.ENOSPC,
        f"the disk is full: {written:,} bytes of this file were written, {_free(place):,} are "
        "free; free some (goal=clean shows what nothing needs), and run the same command again: "
        "it continues",
        str(path),
    )


def _is_full(error: Exception, place: Path) -> bool:
    chain = [*_chain(error)]
    if any(isinstance(link, OSError) and link.errno in FULL for link in chain):
        return True
    if any("No space left" in str(link) for link in chain):
        return True
    unnumbered = isinstance(error, RuntimeError) or (
        isinstance(error, OSError) and error.errno is None
    )
    return unnumbered and _free(place) < _LITTLE


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it, each once: `raise error from error` makes a chain a circle."""
    visited: set[int] = set()
    while error is not None and id(error) not in visited:
        visited.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _free(place: Path) -> int:
    folder = next(path for path in (place, *place.absolute().parents) if path.exists())
    return shutil.disk_usage(folder).free


def _last_written(place: Path) -> Path:
    """The file in a folder that was written to last; the path itself if it is a file's."""
    paths = [
        Path(parent, name)
        for parent, _, names in os.walk(place)
        for name in names
        if name not in _RECORDS
    ]
    return max(paths, key=lambda path: path.lstat().st_mtime_ns, default=place)
