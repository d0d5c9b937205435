"""PRISM: rows whose image resembles those of the others least first."""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.features.shallow import Shallow
from xmas.selection.protocol import Ranked
from xmas.selection.rules.best_first import best_first
from xmas.selection.rules.centred import Centred, mean_correlation
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class Prism:
    """Lowest mean correlation first: of a row's image feature, centred, to those of all other rows.

    A row's score is minus that mean. All text-only rows stay, so they are first, in random order:
    the published subset is that of `subset.text_only=keep_all`, and the budget counts them.

    Source: PRISM (arXiv 2502.12119). The features are of the target before its fit on instructions,
    `features.shallow`; the layer is not stated there, see `Shallow`.
    """

    features: Shallow

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        values = np.load(store.get(self.features) / "values.npy", mmap_mode="r")
        scores = -mean_correlation(Centred.of(values))
        order = best_first(scores, rng)
        is_text = ~pool.open(store).has_image[order]
        order = np.concatenate([order[is_text], order[~is_text]])
        return Ranked(order, scores, np.full(len(scores), -1))
