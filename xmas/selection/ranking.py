"""The order in which a selector puts the rows of a pool, computed once for all budgets."""

import dataclasses
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np

from xmas.data.pool import Pool
from xmas.data.rows import PoolError
from xmas.selection.protocol import BudgetSelector, CheckedSelector, Ranked, Selector, name_of
from xmas.store import Stage, Store


@dataclasses.dataclass(frozen=True)
class Ranking(Stage):
    """A selector's order of all rows of a pool, for a seed.

    Writes `order.npy` (rows,) int64, best first; `row_scores.npy` (rows,) float32, NaN without a
    score; `clusters.npy` (rows,) int64, -1 without a cluster.

    With a `BudgetSelector` there is nothing to compute: it names pool and seed for the subset.

    >>> from xmas import Pool, Ranking, Store
    >>> from xmas.selection.methods.random import Random
    >>> ranking = Ranking(Pool("mix.json", "images"), Random(), seed=1)
    >>> ranked = Ranking.read(Store("store").get(ranking))
    >>> sorted(ranked.order.tolist())
    [0, 1, 2]
    """

    kind: ClassVar[str] = "ranking"
    version: ClassVar[int] = 2

    pool: Pool
    selector: Selector | BudgetSelector
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(
                f"seed={self.seed!r} is not a whole number from 0 up; give e.g. seed=0"
            )

    def rng(self) -> np.random.Generator:
        """The selector's generator, from seed and class name.

        From the seed alone, two selectors that shuffle would draw the same order.
        """
        name = type(self.selector).__name__
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def check(self, store: Store) -> None:
        """Raises ValueError: the pool is there, and empty, or the selector cannot rank it."""
        if not self.pool.at_hand(store):
            return
        if not len(rows := self.pool.open(store)):
            raise PoolError(f"{rows.annotations}: the list is empty; there is nothing to choose")
        if isinstance(self.selector, CheckedSelector):
            self.selector.check(self.pool, store)

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: the selector gives no order, or not one of every row exactly once."""
        name = name_of(self.selector)
        if not isinstance(self.selector, Selector):
            raise ValueError(f"selector={name} is not nested and ranks nothing; use goal=subset")
        count = len(self.pool.open(store))
        ranking = self.selector.rank(self.pool, self.rng(), store)
        if not np.array_equal(np.sort(ranking.order), np.arange(count)):
            raise ValueError(
                f"{name} ranked {len(ranking.order)} rows, "
                f"{len(np.unique(ranking.order))} of them different; the pool has {count}"
            )
        np.save(out / "order.npy", ranking.order.astype(np.int64))
        np.save(out / "row_scores.npy", ranking.scores.astype(np.float32))
        np.save(out / "clusters.npy", ranking.clusters.astype(np.int64))

    @staticmethod
    def read(folder: Path) -> Ranked:
        """The ranking in a folder of the store."""
        return Ranked(
            np.load(folder / "order.npy"),
            np.load(folder / "row_scores.npy"),
            np.load(folder / "clusters.npy"),
        )
