"""The stage around a selector: it ranks a pool once, for every budget."""

import dataclasses
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np

from xmas.data.pool import Pool
from xmas.selection.protocol import BudgetSelector, Ranked, Selector, name_of
from xmas.store import Stage, Store


@dataclasses.dataclass(frozen=True)
class Ranking(Stage):
    """`order.npy` (rows,) int64, best first; `row_scores.npy` (rows,) float32, NaN without a score;
    `clusters.npy` (rows,) int64, -1 without a cluster.

    Around a `BudgetSelector` it only says pool and seed: the subset asks the selector itself.
    """

    kind: ClassVar[str] = "ranking"
    version: ClassVar[int] = 2

    pool: Pool
    selector: Selector | BudgetSelector
    seed: int = 0

    def rng(self) -> np.random.Generator:
        """Of the seed and the selector: of the seed alone, two that shuffle would draw the same."""
        name = type(self.selector).__name__
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: the selector ranks nothing, or not every row exactly once."""
        name = name_of(self.selector)
        if not isinstance(self.selector, Selector):
            raise ValueError(f"selector={name} is not nested and ranks nothing; use goal=subset")
        count = len(self.pool.open(store))
        ranked = self.selector.rank(self.pool, self.rng(), store)
        if not np.array_equal(np.sort(ranked.order), np.arange(count)):
            raise ValueError(
                f"{name} ranked {len(ranked.order)} rows, "
                f"{len(np.unique(ranked.order))} of them different; the pool has {count}"
            )
        np.save(out / "order.npy", ranked.order.astype(np.int64))
        np.save(out / "row_scores.npy", ranked.scores.astype(np.float32))
        np.save(out / "clusters.npy", ranked.clusters.astype(np.int64))

    @staticmethod
    def read(folder: Path) -> Ranked:
        """A ranking in the store."""
        return Ranked(
            np.load(folder / "order.npy"),
            np.load(folder / "row_scores.npy"),
            np.load(folder / "clusters.npy"),
        )
