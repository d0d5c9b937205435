"""Spectra of a pool on disk, written shard by shard by any number of processes.

Each process writes its own files: a sparse array of the size of the whole result, and a mark for
every shard and step, set when the values are on disk. So processes on several hosts never write to
the same file, and a run that was killed resumes from the marks of all processes, with any number of
processes.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from xmas.store import write_atomically


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
        written, marks = self._part(rank, "r+")
        at = [self.steps.index(step) for step in steps]
        written[self.bounds[shard] : self.bounds[shard + 1], at] = values
        written.flush()
        marks[shard, at] = 1
        marks.flush()

    def done(self) -> Bool[np.ndarray, "shards steps"]:
        """Which shards are measured at which steps, by any process."""
        is_measured = np.zeros((self.count, len(self.steps)), dtype=bool)
        for part in self._parts():
            is_measured |= np.load(part / "done.npy") > 0
        return is_measured

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
            fresh = missing & (np.load(part / "done.npy")[:, at] > 0)
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
        return sorted(self.folder.glob("[0-9]*")) if self.folder.exists() else []

    def _part(self, rank: int, mode: str) -> tuple[np.memmap, np.memmap]:
        folder = self.folder / str(rank)
        shapes = {
            "values.npy": ((int(self.bounds[-1]), len(self.steps), self.k), np.float32),
            "done.npy": ((self.count, len(self.steps)), np.uint8),
        }
        arrays = []
        if not folder.exists():  # complete or absent, also for other processes
            fresh = self.folder / f".{rank}"
            fresh.mkdir(parents=True, exist_ok=True)
            for name, (shape, kind) in shapes.items():
                np.lib.format.open_memmap(fresh / name, "w+", kind, shape).flush()
            fresh.replace(folder)
        for name, (shape, _) in shapes.items():
            array = np.lib.format.open_memmap(folder / name, mode)
            if array.shape != shape:
                raise ValueError(
                    f"{folder / name}: shape {array.shape}, expected {shape}; the pool or the "
                    f"options changed, remove {self.folder}"
                )
            arrays.append(array)
        return arrays[0], arrays[1]


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:  # given a path, numpy would append a suffix
        np.save(file, values)
