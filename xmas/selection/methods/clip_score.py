"""CLIP-Score: rows whose text says what their picture shows."""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.features.clip.clip import ClipEmbeddings
from xmas.selection.protocol import Ranked
from xmas.selection.rules.best_first import best_first
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class ClipScore:
    """Highest cosine of picture and text first; rows without an image or text have no score.

    A row's text is the normalised mean of its turns. Which turns count is not said where CLIP-Score
    is printed as a baseline; here all do. Text-only rows follow in random order.
    Source: Hessel et al. (arXiv 2104.08718), without its scale and floor, which keep the order.
    """

    clip: ClipEmbeddings
    said: str = "all"  # human, gpt

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        seen = self.clip.open(store)
        scores = np.concatenate(
            [
                (seen.images(rows) * seen.texts(rows, self.said)).sum(axis=1)
                for rows in seen.blocks()
            ]
        ).astype(np.float64)
        return Ranked(best_first(scores, rng), scores, np.full(len(scores), -1))
