"""Full: all rows in the pool's order; the reference is trained on them."""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.selection.protocol import Ranked
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class Full:
    """The pool's own order; meant for a budget of all rows."""

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        count = len(pool.open(store))
        return Ranked(np.arange(count), np.full(count, np.nan), np.full(count, -1))
