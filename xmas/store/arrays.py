"""Memory-mapped arrays: space is reserved for them, and attempts that were interrupted continue."""

import errno
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from xmas.store.atomic import partial_of, put_in_place, write_atomically
from xmas.store.checkpoint import move_aside
from xmas.store.durable import sync
from xmas.store.full_disk import FULL

_NO_FALLOCATE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_BLOCK = 1 << 20  # bytes


def new_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap:
    """A new `.npy` file of zeros, memory-mapped, with its space reserved on the disk.

    Raises OSError: as `reserve`; the file is removed.
    """
    array = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)
    try:
        with path.open("r+b") as file:
            reserve(file, path.stat().st_size, path)
    except OSError:
        path.unlink()
        raise
    return array


def reserve(file: IO[bytes], size: int, path: Path) -> None:
    """Reserve space on the disk for a file that will be memory-mapped; its content stays.

    Without that, a write to a map on a full disk kills the process (SIGBUS).

    Args:
        file: open to be read and written.
        size: bytes of the whole file.
        path: where it is, for the message.

    Raises OSError: the disk is full; names the file, the bytes needed and those that are free.
    """
    descriptor, free = file.fileno(), shutil.disk_usage(path.parent).free
    try:
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _NO_FALLOCATE:
                raise
            for start in range(0, size, _BLOCK):  # written again, its zeros get a place on the disk
                content = os.pread(descriptor, min(_BLOCK, size - start), start)
                os.pwrite(descriptor, content.ljust(min(_BLOCK, size - start), b"\0"), start)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(
            error.errno,
            f"the disk is full: {size:,} bytes are needed, {free:,} are free; free some, or use "
            "another disk",
            str(path),
        ) from error


class ArrayInParts:
    """A `.npy` file that is filled part by part over several attempts; absent until complete.

    `values`, memory-mapped, is filled in the order of `parts`; `save` notes how far it is on the
    disk, with a checksum of what it contains until there, and `finish` makes it `path`.

    Args:
        path: of the file; `<stem>.ckpt` next to it is the note, which the store removes.
        parts: indices of rows, in the order in which they are filled.

    Attributes:
        done: the number of parts that earlier attempts have filled. If what they filled is not what
            they wrote, it is named, moved aside, and filled anew.

    Raises OSError: the disk is full; see `new_array`.
    """

    def __init__(
        self,
        path: Path,
        dtype: Any,
        shape: tuple[int, ...],
        parts: Sequence[slice | np.ndarray],
    ) -> None:
        self.path, self.parts = path, parts
        self.done, self._checksum = 0, 0
        self._partial, self._note = partial_of(path), path.with_suffix(".ckpt")
        if path.exists():  # the attempt ended after `finish`; its note says whether all is there
            put_in_place(path, self._partial)
        if self._partial.exists() and (fault := self._resume(np.dtype(dtype), shape)) is not None:
            move_aside(self._partial, fault, "filled anew")
        if not self._partial.exists():
            self._note.unlink(missing_ok=True)
            self.values = new_array(self._partial, dtype, shape)
            sync(self._partial)

    def save(self, done: int) -> None:
        """Note that the parts before number `done` are filled."""
        self.values.flush()
        for part in self.parts[self.done : done]:
            self._checksum = self._added(part)
        self.done = done
        text = json.dumps({"parts": done, "crc32": self._checksum})
        write_atomically(self._note, lambda path: path.write_text(text))

    def finish(self) -> None:
        """Rename the file to `path`: all parts are filled."""
        self.save(len(self.parts))
        put_in_place(self._partial, self.path)

    def _added(self, part: slice | np.ndarray) -> int:
        return zlib.crc32(self.values[part].tobytes(), self._checksum)

    def _resume(self, dtype: np.dtype, shape: tuple[int, ...]) -> str | None:
        """Continue with the file of an earlier attempt; what is wrong with it, or None."""
        try:
            self.values = np.lib.format.open_memmap(self._partial, "r+")
        except (ValueError, OSError) as error:  # cut, empty, not an array
            return f"cannot be read ({error})"
        if self.values.dtype != dtype or self.values.shape != shape:
            return f"has shape {self.values.shape} {self.values.dtype}, expected {shape} {dtype}"
        with self._partial.open("r+b") as file:  # numpy fills up a file that was cut
            reserve(file, self._partial.stat().st_size, self._partial)
        if not self._note.exists():
            return None
        try:
            note = json.loads(self._note.read_text())
            done, checksum = int(note["parts"]), int(note["crc32"])
        except (ValueError, TypeError, KeyError) as error:
            return f"{self._note.name} cannot be read ({error})"
        for part in self.parts[:done]:
            self._checksum = self._added(part)
        if self._checksum != checksum:
            self._checksum = 0
            return f"its first {done} parts are not what was written"
        self.done = done
        return None
