"""Random text share: random rows, with as many text-only rows as another selector has.

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
    """Random text-only rows where the other ranking has text-only rows, random others elsewhere.

    So the share is the other ranking's at every budget, and subsets are nested. For
    `subset.text_only=ranked`: every other policy sets the share itself, which leaves plain random.

    Source: a control of this package.
    """

    like: Ranking  # whose text-only share it has

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        """Raises ValueError: the other ranking is of another pool."""
        has_image = pool.open(store).has_image
        like_order = Ranking.read(store.get(self.like)).order
        if len(like_order) != len(has_image):
            raise ValueError(
                f"random_text_share: the other ranking has {len(like_order)} rows, "
                f"the pool {len(has_image)}"
            )
        shuffled, order = rng.permutation(len(like_order)), np.empty_like(like_order)
        order[has_image[like_order]] = shuffled[has_image[shuffled]]
        order[~has_image[like_order]] = shuffled[~has_image[shuffled]]
        return Ranked(order, np.full(len(order), np.nan), np.full(len(order), -1))
