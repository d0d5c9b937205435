"""Random: every row is as likely as any other. The baseline that every method has to beat."""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.selection.protocol import Ranked
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class Random:
    """A random permutation of the rows; computes no feature."""

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        count = len(pool.open(store))
        return Ranked(rng.permutation(count), np.full(count, np.nan), np.full(count, -1))
