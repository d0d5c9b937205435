"""Stratified: random rows, with the pool's share of every source.

The control for methods that change the mix of sources only a little: random's mix varies.
"""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.selection.protocol import Ranked
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class Stratified:
    """Random rows of every source, as many as Webster's apportionment gives it at every budget.

    The j-th random row of a source with n rows is placed at (j - 1/2) / n; of equal places the
    order of sources is random. Under this rule (Sainte-Laguë) a larger budget never gives a source
    fewer rows, as largest remainders may, so subsets are nested. A row's cluster is its source.

    Source: a control of this package.
    """

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        _, labels, sizes = np.unique(
            pool.open(store).sources, return_inverse=True, return_counts=True
        )
        permutation = rng.permutation(len(labels))
        by_cluster = permutation[np.argsort(labels[permutation], kind="stable")]
        number = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        place = np.empty(len(labels))
        place[by_cluster] = (number + 0.5) / np.repeat(sizes, sizes)
        turn = rng.permutation(len(sizes))
        return Ranked(
            np.lexsort((turn[labels], place)),
            np.full(len(labels), np.nan),
            labels.astype(np.int64),
        )
