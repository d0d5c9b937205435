"""The stage that plants truths into a pool, opened as a pool like any other."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import ClassVar

import numpy as np

from xmas.data.planted.edits import altered
from xmas.data.planted.planted_rows import IMAGES, PlantedRows, picture_file
from xmas.data.planted.planting import KINDS, Plan, Planting, planned
from xmas.data.pool import OF_ANNOTATIONS, Pool
from xmas.data.rows import Rows
from xmas.store import Made, Stage, Store, nearest_stages, write_atomically
from xmas.store.progress import bar

FILE = "plan.npz"


@dataclasses.dataclass(frozen=True)
class PlantedPool(Stage):
    """`plan.npz`, the arrays of `Plan`; `images/<row>.jpg`, the pictures of near copies;
    `planted.json`, rows of every kind.

    Nothing else of the pool is copied: rows are changed when they are read.
    """

    kind: ClassVar[str] = "planted"
    version: ClassVar[int] = 2  # questions are padded, not answers

    pool: Pool
    planting: Planting = dataclasses.field(default_factory=Planting)
    seed: int = 0

    def inputs(self) -> list[Stage]:
        return list(nearest_stages(self.pool))

    def as_pool(self) -> Pool:
        """The planted rows, as a pool of the same name."""
        return dataclasses.replace(self.pool, annotations=Made(self, FILE), **OF_ANNOTATIONS)

    def size(self, rows: int) -> int:
        """How many rows are planted of this many: planted ones take the place of others."""
        return rows

    def compute(self, store: Store, out: Path) -> None:
        """Raises PoolError: the pool is too small for its shares, or an image cannot be read."""
        examples = self.pool.open(store)
        plan = planned(examples, self.planting, np.random.default_rng(self.seed))
        (out / IMAGES).mkdir(exist_ok=True)
        for row in bar(np.flatnonzero(plan.variants >= 0).tolist(), label="near copies"):
            path = out / IMAGES / Path(picture_file(row)).name
            numbers = examples.shown[int(plan.pictures[row])].tolist()
            if numbers and not path.exists():  # of an interrupted attempt
                image = examples.picture(numbers[0])
                content = altered(image, int(plan.variants[row]), examples.max_pixels)
                write_atomically(path, lambda partial, of=content: partial.write_bytes(of))
        np.savez(out / FILE, **vars(plan))
        counts = dict(zip(KINDS, np.bincount(plan.kinds, minlength=len(KINDS)), strict=True))
        text = json.dumps({name: int(count) for name, count in counts.items()}, indent=2)
        (out / "planted.json").write_text(text)

    def plan(self, store: Store) -> Plan:
        """What every row is; computed if it is not there."""
        path = store.get(self) / FILE
        return _plan(path, path.stat().st_mtime_ns)

    def open(self, store: Store, name: str) -> Rows:
        """The planted rows; see `xmas.data.pool.OpensRows`."""
        path = store.get(self) / name
        modified = path.stat().st_mtime_ns
        return _planted(self.pool.open(store), path, modified, self.planting.sentences)


@functools.lru_cache(maxsize=8)
def _plan(path: Path, modified: int) -> Plan:
    """The plan in a file; `modified` tells another content."""
    with np.load(path) as arrays:
        return Plan(**arrays)


@functools.lru_cache(maxsize=4)
def _planted(rows: Rows, path: Path, modified: int, sentences: int) -> PlantedRows:
    return PlantedRows(rows, _plan(path, modified), sentences, path.parent)
