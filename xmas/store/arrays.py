"""Memory-mapped arrays: space is reserved for them, and attempts that were interrupted continue."""

import errno
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from xmas.store import distributed
from xmas.store.atomic import partial_of, put_in_place, write_atomically
from xmas.store.checkpoint import move_aside
from xmas.store.durable import make_folder, sync
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
    """A `.npy` file that ranks fill part by part, over several attempts; absent until complete.

    Until all parts are there, each is a separate file with a checksum, in `<stem>.parts`. So no
    two processes write to one file, on whichever hosts they are, and what was killed continues with
    any number of ranks. At the end rank 0 copies them into `path`: until then twice its size is on
    the disk. Parts that are not what was written are named, moved aside, and filled anew.

    Args:
        path: of the file; `<stem>.ckpt` next to it, which the store removes, says that it is whole.
        parts: indices of rows; together all rows, none twice.

    Attributes:
        own: the numbers of the parts of this rank; of a file that is complete, none.
        todo: those of them that it has yet to fill.

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
        self._dtype, self._shape = np.dtype(dtype), shape
        self._folder, self._whole = path.with_suffix(".parts"), partial_of(path)
        self._rank, world = distributed.rank_and_world()
        self._note = path.with_suffix(".ckpt")
        self._is_complete = path.exists() and self._noted() == len(parts)  # by another attempt
        self.own: Sequence[int] = range(0)
        self.todo: list[int] = []
        if self._is_complete:
            return
        make_folder(self._folder)
        if self._rank == 0:  # the space that is needed at the end is missed at the beginning
            new_array(self._whole, self._dtype, shape)
        self.own = range(self._rank, len(parts), world)
        self.todo = [number for number in self.own if not self._is_filled(number)]

    def rows(self, numbers: Sequence[int]) -> int:
        """The rows of some parts, by their numbers."""
        return sum(len(self._indices(number)) for number in numbers)

    def write(self, number: int, values: np.ndarray) -> None:
        """Write a part. Raises ValueError: it has another shape than its rows."""
        expected = (len(self._indices(number)), *self._shape[1:])
        if values.shape != expected:
            raise ValueError(f"{self.path}: part {number} has shape {values.shape}, not {expected}")

        def save(path: Path) -> None:
            with path.open("wb") as file:  # given a path, numpy would append a suffix
                np.savez(file, values=values.astype(self._dtype))  # a zip file has checksums

        write_atomically(self._place(number), save)

    def finish(self) -> None:
        """Wait for the parts of all ranks, and make them one file.

        Raises OSError: a part was damaged since it was written; the next attempt fills it anew.
        """
        if not self._is_complete:
            distributed.barrier()
            if self._rank == 0:
                self._merge()
        if self._rank == 0:
            shutil.rmtree(self._folder, ignore_errors=True)  # gone, if only its removal was new

    def _merge(self) -> None:
        whole = np.lib.format.open_memmap(self._whole, "r+")
        for number, part in enumerate(self.parts):
            place = self._place(number)
            try:
                with np.load(place) as file:
                    whole[part] = file["values"]
            except (FileNotFoundError, zipfile.BadZipFile) as error:
                raise OSError(
                    f"{place}: {error}; run the same command again: it fills this part anew"
                ) from error
        whole.flush()
        sync(self._whole)
        text = json.dumps({"parts": len(self.parts)})
        write_atomically(self._note, lambda path: path.write_text(text))
        put_in_place(self._whole, self.path)

    def _noted(self) -> int:
        """The parts that `path` has, as its note says; a file without one is of another kind."""
        try:
            return int(json.loads(self._note.read_text())["parts"])
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return 0

    def _indices(self, number: int) -> range | np.ndarray:
        part = self.parts[number]
        return range(self._shape[0])[part] if isinstance(part, slice) else part

    def _place(self, number: int) -> Path:
        """The file of a part; of the same number with other rows it is another one."""
        rows = np.asarray(self._indices(number), dtype=np.int64)
        return self._folder / f"{number}-{zlib.crc32(rows.tobytes()):08x}.npz"

    def _is_filled(self, number: int) -> bool:
        place = self._place(number)
        if not place.exists():
            return False
        try:
            with zipfile.ZipFile(place) as file:
                fault = None if file.testzip() is None else "is not what was written"
        except zipfile.BadZipFile as error:
            fault = f"cannot be read ({error})"
        if fault is not None:
            move_aside(place, fault, "filled anew")
        return fault is None
