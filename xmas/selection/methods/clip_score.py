"""CLIP-Score: rows whose text matches their image first."""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.features.clip.clip import ClipEmbeddings
from xmas.selection.protocol import Ranked
from xmas.selection.rules.best_first import best_first
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class ClipScore:
    """Highest cosine of image and text embedding first.

    A row's text is the normalised mean of its turns. Rows without an image or text have no score
    and follow in random order.

    Source: Hessel et al. (arXiv 2104.08718), without its scale and floor, which keep the order.
    Deviation: which turns count is not stated where CLIP-Score is a published baseline; here all.
    """

    clip: ClipEmbeddings
    said: str = "all"  # human, gpt

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        embeddings = self.clip.open(store)
        scores = np.concatenate(
            [
                (embeddings.images(rows) * embeddings.texts(rows, self.said)).sum(axis=1)
                for rows in embeddings.blocks()
            ]
        ).astype(np.float64)
        return Ranked(best_first(scores, rng), scores, np.full(len(scores), -1))
