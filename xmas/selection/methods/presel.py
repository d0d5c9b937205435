"""PreSel: more of the sources whose answers need their questions, central images first."""

import dataclasses
import json

import numpy as np
from jaxtyping import Float, Int

from xmas.data.pool import Pool
from xmas.features.clip.embedded import unit
from xmas.features.clustering.source_clusters import SourceClusters
from xmas.features.losses.relevance import Relevance
from xmas.selection.methods.semdedup import members
from xmas.selection.methods.typiclust import nearest_cosines
from xmas.selection.protocol import Ranked
from xmas.selection.rules.shares import in_shares
from xmas.store import Stage, Store


def source_weights(
    ratios: Float[np.ndarray, " rows"], source: Int[np.ndarray, " rows"], temperature: float | None
) -> Float[np.ndarray, " sources"]:
    """softmax(-I / T) over the sources, I the mean ratio of a source's rows.

    A source without a ratio has the mean of the other sources' I.

    Args:
        ratios: NaN where a row has none.
        source: of every row, from 0.
        temperature: T; None: 1 / sqrt(number of sources).

    Raises ValueError: no row has a ratio.
    """
    known = np.isfinite(ratios)
    counts = np.bincount(source[known], minlength=source.max() + 1)
    if not counts.any():
        raise ValueError(
            "presel: no row of the reference set has a loss with its question and without; enlarge "
            "it: features.consistency.model.subset.fraction"
        )
    sums = np.bincount(source[known], weights=ratios[known], minlength=len(counts))
    means = sums / np.maximum(counts, 1)
    means[counts == 0] = means[counts > 0].mean()
    temperature = len(counts) ** -0.5 if temperature is None else temperature
    weights = np.exp(-(means - means.min()) / temperature)
    return weights / weights.sum()


def in_proportion(
    queues: list[Int[np.ndarray, " _"]], weights: Float[np.ndarray, " queues"]
) -> Int[np.ndarray, " rows"]:
    """All rows of the queues, each in its order, of which every prefix has shares as the weights.

    The j-th row of a queue is placed at (j - 1/2) / weight; of equal places the earlier queue is
    first. A queue that has ended leaves its share to the others in proportion.
    """
    places = [
        (np.arange(len(rows)) + 0.5) / weight for rows, weight in zip(queues, weights, strict=True)
    ]
    order = np.argsort(np.concatenate(places), kind="stable")
    return np.concatenate(queues)[order]


@dataclasses.dataclass(frozen=True)
class Presel:
    """The reference set first, then sources in proportion to softmax(-I / T), as their rows last.

    I is the mean of loss(answer | image, question) / loss(answer | image) over a source's rows of
    the reference set: where it is low the question matters. Inside a source every cluster of images
    has its share of the rows, those with the highest mean cosine to their neighbours in the cluster
    first; that is the score. Text-only rows follow in random order.

    Source: PreSel (arXiv 2503.07591); released `llava_task_importance.py`, `kmeans_clust.py`: T is
    1 / sqrt(10) for 10 tasks, 5 neighbours, the reference set a part of what is selected and its
    rows no neighbours. Deviations: tasks are the pool's sources; the release selects anew at 10, 15
    and 20 % of the pool, with quotas rounded at each; here shares are Webster's, so that subsets
    are nested. The image feature is any: the release has DINOv2-base's class token, of which there
    is none here; the default is CLIP's image vector.
    """

    relevance: Relevance
    clusters: SourceClusters
    neighbours: int = 5
    temperature: float | None = None  # None: 1 / sqrt(number of sources)

    def inputs(self) -> list[Stage]:
        """With what the two stages are of: the reference set and the images' vectors."""
        return [self.relevance, self.relevance.reference, self.clusters, self.clusters.features]

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        """Raises ValueError: as `source_weights`."""
        labels = np.load(store.get(self.clusters) / "labels.npy")
        source = pool.open(store).index.source[:].astype(np.int64)
        rows_of_reference = json.loads(
            (store.get(self.relevance.reference) / "rows.json").read_text()
        )
        chosen = np.zeros(len(labels), dtype=bool)
        chosen[rows_of_reference] = True
        pictured = labels >= 0
        scores = self._centrality(store, labels, chosen)
        first = rng.permutation(np.flatnonzero(chosen & pictured))
        others = np.flatnonzero(~chosen & pictured)
        queues, weights = [], []
        of_source = source_weights(self.relevance.ratios(store), source, self.temperature)
        for each in np.unique(source[others]):
            rows = others[source[others] == each]
            _, compact, sizes = np.unique(labels[rows], return_inverse=True, return_counts=True)
            turn = np.argsort(np.argsort(-sizes, kind="stable"))
            preferred = np.argsort(-scores[rows], kind="stable")
            queues.append(rows[in_shares(compact, preferred, turn)])
            weights.append(of_source[each])
        last = rng.permutation(np.flatnonzero(~pictured))
        order = in_proportion(queues, np.array(weights)) if queues else others
        return Ranked(np.concatenate([first, order, last]), scores, labels)

    def _centrality(
        self, store: Store, labels: Int[np.ndarray, " rows"], chosen: np.ndarray
    ) -> Float[np.ndarray, " rows"]:
        """The mean cosine of every row outside the reference set to its nearest ones; 0 for one
        that is alone in its cluster, NaN for the others.
        """
        values = np.load(store.get(self.clusters.features) / "values.npy", mmap_mode="r")
        scores = np.full(len(labels), np.nan)
        for rows in members(np.where(chosen, -1, labels)):
            if labels[rows[0]] >= 0 and not chosen[rows[0]]:
                points = unit(values[rows].astype(np.float32))
                cosines = nearest_cosines(points, self.neighbours)
                scores[rows] = cosines.mean(axis=1) if cosines.shape[1] else 0.0
        return scores
