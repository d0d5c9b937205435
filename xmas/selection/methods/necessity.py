"""Visual necessity: the rows whose loss rises most without the image first."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from xmas.data.pool import Pool
from xmas.features.losses.answers import Answers
from xmas.selection.protocol import Ranked
from xmas.store import Stage, Store


def best_of_each(
    scores: Float[np.ndarray, " rows"], labels: Int[np.ndarray, " rows"]
) -> Int[np.ndarray, " rows"]:
    """An order of which every prefix has the best rows of each cluster, in proportion to its size.

    The j-th best of a cluster of n rows is placed at (j - 1/2) / n; of equal places the higher
    score comes first, then the lower row. NaN is a cluster's worst.
    """
    best = np.argsort(-scores, kind="stable")
    by_cluster = best[np.argsort(labels[best], kind="stable")]
    _, compact, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    turn = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = np.empty(len(labels))
    place[by_cluster] = (turn + 0.5) / sizes[compact[by_cluster]]
    return best[np.argsort(place[best], kind="stable")]


@dataclasses.dataclass(frozen=True)
class Necessity:
    """Largest loss without the image minus loss with it first, over all rows or cluster by cluster.

    As published, the model is the target before its fit on instructions, which costs no fit:
    `features.start_answers`. Text-only rows have 0 by definition.

    Source: VisNec (arXiv 2603.01195). Deviations: the image's tokens are left out, where VisNec has
    a masked pad. VisNec selects int(15 % of its size) rows of each of 20 clusters of the first
    questions' sentence embeddings; `selector.clusters=${clusters.questions}` keeps these shares at
    every budget. By default all rows are ranked together, and no encoder is needed.
    """

    answers: Answers
    clusters: Stage | None = None  # with `labels.npy` (rows,)

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        scores = self.answers.column(store, "blind_loss") - self.answers.column(store, "loss")
        labels = np.full(len(scores), -1)
        if self.clusters is not None:
            labels = np.load(store.get(self.clusters) / "labels.npy")
        return Ranked(best_of_each(scores, labels), scores, labels)
