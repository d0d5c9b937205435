"""Random text share: random rows, but as many text-only ones as another selector takes.

The control for methods whose gain may come from the share of text-only rows alone, as XMAS's may:
its text-only cluster falls from 6 % of LLaVA-665k to a fraction of a per cent of the subset.
"""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.selection.protocol import Ranked
from xmas.selection.ranking import Ranking
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class RandomTextShare:
    """Wherever the other ranking has a text-only row, some text-only row; the others likewise.

    So the share is the other's at every budget, and subsets are nested. It is meant for
    `subset.text_only=ranked`: every other policy sets the share itself, and leaves plain random.
    """

    like: Ranking  # whose text-only share it has

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        """Raises ValueError: the other ranking is of another pool."""
        has_image = pool.open(store).has_image
        other = Ranking.read(store.get(self.like)).order
        if len(other) != len(has_image):
            raise ValueError(
                f"random_text_share: the other ranking has {len(other)} rows, "
                f"the pool {len(has_image)}"
            )
        drawn, order = rng.permutation(len(other)), np.empty_like(other)
        order[has_image[other]] = drawn[has_image[drawn]]
        order[~has_image[other]] = drawn[~has_image[drawn]]
        return Ranked(order, np.full(len(order), np.nan), np.full(len(order), -1))
