"""Self-supervised prototypes: the rows farthest from the prototype of their cluster first."""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.features.clip.embedded import unit
from xmas.selection.methods.semdedup import KEEP, members
from xmas.selection.protocol import Ranked
from xmas.selection.rules.best_first import best_first
from xmas.store import Stage, Store


@dataclasses.dataclass(frozen=True)
class SelfSup:
    """Rows by their cosine distance to the mean of their cluster, `hard` ones, far, first.

    A row's score is its distance, its negative if the `easy` come first, so that high is good. Rows
    without the feature follow in random order.

    Source: Sorscher et al. (arXiv 2206.14486), section 5: k-means in the space of a self-supervised
    model, difficulty is the distance to the nearest prototype; hard examples first where data are
    plenty, easy ones where they are few. Ours: the cosine, and CLIP as the space, where the paper
    has an image model trained on ImageNet alone.
    """

    features: Stage  # with `values.npy` (rows, d), NaN on rows without it
    clusters: Stage  # with `labels.npy` (rows,)
    keep: str = "hard"  # easy

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        """Raises ValueError: no such order."""
        if self.keep not in KEEP:
            raise ValueError(f"keep {self.keep!r}: expected one of {', '.join(KEEP)}")
        values = np.load(store.get(self.features) / "values.npy", mmap_mode="r")
        labels = np.load(store.get(self.clusters) / "labels.npy")
        scores = np.full(len(labels), np.nan)
        for rows in members(labels):
            points = unit(values[rows].astype(np.float32))
            has = np.isfinite(points).all(axis=1)
            if has.any():
                prototype = unit(points[has].mean(axis=0, keepdims=True))[0]
                scores[rows[has]] = 1 - points[has] @ prototype
        if self.keep == "easy":
            scores = -scores
        return Ranked(best_first(scores, rng), scores, labels)
