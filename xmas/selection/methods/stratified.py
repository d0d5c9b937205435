"""Stratified: random, but every source keeps the share that it has in the pool.

The control for methods that move the mix of sources only a little: random's own mix varies.
"""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.selection.protocol import Ranked
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class Stratified:
    """Random rows of every source, as many as Webster's apportionment gives it at every budget.

    The j-th row drawn of a source with n rows stands at (j - 1/2) / n of the order. Seats that are
    given out so (Sainte-Laguë) are never taken back at a larger budget, which largest remainders
    would do; subsets are nested. Of equal places the source drawn first comes first. The cluster
    of a row is its source.
    """

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        _, labels, sizes = np.unique(
            pool.open(store).sources, return_inverse=True, return_counts=True
        )
        drawn = rng.permutation(len(labels))
        grouped = drawn[np.argsort(labels[drawn], kind="stable")]
        number = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        place = np.empty(len(labels))
        place[grouped] = (number + 0.5) / np.repeat(sizes, sizes)
        turn = rng.permutation(len(sizes))
        return Ranked(
            np.lexsort((turn[labels], place)),
            np.full(len(labels), np.nan),
            labels.astype(np.int64),
        )
