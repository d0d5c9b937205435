"""Spectra of a pool on disk, written shard by shard by any number of processes.

Each process writes its own files: an array of the size of the whole result, and a checksum and a
mark for every shard and step, the mark set when the values are on disk. So processes on several
hosts never write to the same file, and a run that was killed resumes from the marks of all
processes, with any number of processes. Values that are not what was written are measured again.
"""

import contextlib
import dataclasses
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from xmas.store import write_atomically
from xmas.store.arrays import new_array
from xmas.store.atomic import put_in_place
from xmas.store.checkpoint import move_aside
from xmas.store.durable import make_folder, sync

log = logging.getLogger(__name__)

_FILES = ("values.npy", "checksums.npy", "done.npy")
_right: set[tuple[Path, int, int]] = set()  # part, shard and column whose checksum was right


@dataclasses.dataclass(frozen=True)
class Shards:
    """Values (measured, steps, k) float32 in the order of a plan, split at `bounds` into shards.

    Args:
        folder: contains a folder for every process that has written.
        bounds: shard n consists of the measured rows `bounds[n]` to `bounds[n + 1] - 1`.
        steps: of the snapshots.
        k: values of a row and step.
    """

    folder: Path
    bounds: Int[np.ndarray, " shards_1"]
    steps: tuple[int, ...]
    k: int

    @property
    def count(self) -> int:
        return len(self.bounds) - 1

    def write(
        self,
        shard: int,
        steps: Sequence[int],
        values: Float[np.ndarray, "rows steps k"],
        *,
        rank: int = 0,
    ) -> None:
        """Write the values of a shard at some steps, and mark them when they are on disk."""
        written, checksums, marks = self._part(rank, "r+")
        at = [self.steps.index(step) for step in steps]
        written[self.bounds[shard] : self.bounds[shard + 1], at] = values
        checksums[shard, at] = [self._checksum(written, shard, column) for column in at]
        sync(self.folder / str(rank) / "checksums.npy")
        written.flush()
        marks[shard, at] = 1
        marks.flush()
        _right.update((self.folder / str(rank), shard, column) for column in at)

    def done(self) -> Bool[np.ndarray, "shards steps"]:
        """Which shards are measured at which steps, by any process."""
        is_measured = np.zeros((self.count, len(self.steps)), dtype=bool)
        for part in self._parts():
            is_measured |= self._done(part)
        return is_measured

    def _done(self, part: Path) -> Bool[np.ndarray, "shards steps"]:
        """What a process has measured; without values that are not what it wrote, with a warning.

        The values of a shard are compared with their checksum once a process.
        """
        done = np.load(part / "done.npy") > 0
        marked = [(int(shard), int(column)) for shard, column in np.argwhere(done)]
        if all((part, *cell) in _right for cell in marked):
            return done
        values = np.load(part / "values.npy", mmap_mode="r")
        checksums = np.load(part / "checksums.npy")
        for shard, column in marked:
            if (part, shard, column) in _right:
                continue
            if self._checksum(values, shard, column) == checksums[shard, column]:
                _right.add((part, shard, column))
                continue
            done[shard, column] = False
            log.warning(
                "%s: shard %d at step %d is not what was written; it is measured again",
                part / "values.npy", shard, self.steps[column],
            )  # fmt: skip
        return done

    def _checksum(self, values: np.ndarray, shard: int, column: int) -> int:
        span = slice(self.bounds[shard], self.bounds[shard + 1])
        return zlib.crc32(values[span, column].tobytes())

    def todo(self, steps: Sequence[int]) -> Int[np.ndarray, " todo"]:
        """The shards that are not measured at one of these steps."""
        at = [self.steps.index(step) for step in steps]
        return np.flatnonzero(~self.done()[:, at].all(axis=1))

    def column(self, step: int) -> Float[np.ndarray, "measured k"]:
        """The values of one step. Raises ValueError: shards are not measured; names them."""
        return self._merged([step])[:, 0]

    def merge(
        self, path: Path, order: Int[np.ndarray, " measured"], rows: int
    ) -> Float[np.ndarray, "rows steps k"]:
        """Write the values to `path` in the order of the pool, NaN for rows that are not measured.

        Args:
            order: the row in the pool of every measured row.
            rows: the number of rows in the pool.

        Raises:
            ValueError: shards are not measured; names them.
        """
        whole = np.full((rows, len(self.steps), self.k), np.nan, dtype=np.float32)
        whole[order] = self._merged(self.steps)
        write_atomically(path, lambda partial: _save(partial, whole))
        return whole

    def _merged(self, steps: Sequence[int]) -> Float[np.ndarray, "measured steps k"]:
        at = [self.steps.index(step) for step in steps]
        whole = np.empty((int(self.bounds[-1]), len(at), self.k), dtype=np.float32)
        missing = np.ones((self.count, len(at)), dtype=bool)
        for part in self._parts():
            values = np.load(part / "values.npy", mmap_mode="r")
            fresh = missing & self._done(part)[:, at]
            for shard, column in np.argwhere(fresh):
                span = slice(self.bounds[shard], self.bounds[shard + 1])
                whole[span, column] = values[span, at[column]]
            missing &= ~fresh
        if missing.any():
            shard, column = np.argwhere(missing)[0]
            raise ValueError(
                f"{self.folder}: {int(missing.sum())} shards are not measured, the first is shard "
                f"{shard} (rows {self.bounds[shard]} to {self.bounds[shard + 1] - 1} of the plan) "
                f"at step {steps[column]}; run the same command again"
            )
        return whole

    def _parts(self) -> list[Path]:
        """The folders of processes that have written; one that cannot be read is moved aside."""
        return [part for part in sorted(self.folder.glob("[0-9]*")) if _is_readable(part)]

    def _part(self, rank: int, mode: str) -> tuple[np.memmap, np.memmap, np.memmap]:
        folder = self.folder / str(rank)
        cells = (self.count, len(self.steps))
        shapes = [(int(self.bounds[-1]), len(self.steps), self.k), cells, cells]
        kinds = [np.float32, np.uint32, np.uint8]
        arrays = []
        if not folder.exists():  # complete or absent, also for other processes
            fresh = self.folder / f".{rank}"
            make_folder(fresh)
            for name, kind, shape in zip(_FILES, kinds, shapes, strict=True):
                new_array(fresh / name, kind, shape)
            sync(fresh)
            put_in_place(fresh, folder)
        for name, shape in zip(_FILES, shapes, strict=True):
            array = np.lib.format.open_memmap(folder / name, mode)
            if array.shape != shape:
                raise ValueError(
                    f"{folder / name}: shape {array.shape}, expected {shape}; the pool or the "
                    f"options changed, remove {self.folder}"
                )
            arrays.append(array)
        return arrays[0], arrays[1], arrays[2]


def _is_readable(part: Path) -> bool:
    try:
        for name in _FILES:
            np.load(part / name, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        with contextlib.suppress(FileNotFoundError):  # another process has moved it
            move_aside(part, f"cannot be read ({error})", "its shards are measured again")
        return False
    return True


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:  # given a path, numpy would append a suffix
        np.save(file, values)
