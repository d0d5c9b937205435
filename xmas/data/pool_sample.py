"""A random part of a pool as a pool: a tenth left out, a half, or few enough rows for a trial."""

import dataclasses
import functools
import math
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import numpy as np

from xmas.data.chosen_rows import ChosenRows
from xmas.data.pool import OF_ANNOTATIONS, Pool
from xmas.data.rows import PoolError, Rows
from xmas.store import Made, Stage, Store, nearest_stages

FILE = "rows.npy"


@dataclasses.dataclass(frozen=True)
class PoolSample(Stage):
    """`rows.npy`, the numbers in `pool` of the sampled rows, ascending.

    Args:
        share: of the rows, in (0, 1], rounded down in decimal arithmetic.
        most: rows, at most; None: no limit.
        seed: of the draw.

    Raises:
        ValueError: another `share`, or `most` below 1.
    """

    kind: ClassVar[str] = "pool_sample"

    pool: Pool
    share: float = 1.0
    most: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"a sample of share={self.share}: expected a number within (0, 1]")
        if self.most is not None and self.most < 1:
            raise ValueError(f"a sample of most={self.most} rows: expected 1 or more, or null")

    def inputs(self) -> list[Stage]:
        return list(nearest_stages(self.pool))

    def as_pool(self) -> Pool:
        """The sampled rows, as a pool of the same name."""
        return dataclasses.replace(self.pool, annotations=Made(self, FILE), **OF_ANNOTATIONS)

    def size(self, rows: int) -> int:
        """How many rows are sampled from this many."""
        count = math.floor(Fraction(str(self.share)) * rows)
        return count if self.most is None else min(count, self.most)

    def compute(self, store: Store, out: Path) -> None:
        """Raises PoolError: the share is no row."""
        examples = self.pool.open(store)
        count = self.size(len(examples))
        if not count:
            raise PoolError(
                f"{examples.annotations}: a share of {self.share} of its {len(examples)} rows is "
                "none; raise it"
            )
        order = np.random.default_rng(self.seed).permutation(len(examples))
        np.save(out / FILE, np.sort(order[:count]))

    def rows(self, store: Store) -> np.ndarray:
        """The numbers in `pool` of the sampled rows."""
        return np.load(store.get(self) / FILE)

    def open(self, store: Store, name: str) -> Rows:
        """The rows that the file `name` lists; see `xmas.data.pool.OpensRows`."""
        path = store.get(self) / name
        return _sampled(self.pool.open(store), path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _sampled(rows: Rows, numbers: Path, modified: int) -> ChosenRows:
    """The rows whose numbers are in a file; `modified` tells another content."""
    return ChosenRows(rows, np.load(numbers))
