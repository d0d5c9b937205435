"""Stratified: random rows, with the pool's share of every source.

The control for methods that change the mix of sources only a little: random's mix varies.
"""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.selection.protocol import Ranked
from xmas.selection.rules.shares import in_shares
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class Stratified:
    """Random rows of every source, as many as Webster's apportionment gives it at every budget.

    See `rules.shares.in_shares`; of rows at equal places the order of sources is random. A row's
    cluster is its source.

    Source: a control of this package.
    """

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        _, labels, sizes = np.unique(
            pool.open(store).sources, return_inverse=True, return_counts=True
        )
        permutation = rng.permutation(len(labels))
        turn = rng.permutation(len(sizes))
        return Ranked(
            in_shares(labels, permutation, turn),
            np.full(len(labels), np.nan),
            labels.astype(np.int64),
        )
