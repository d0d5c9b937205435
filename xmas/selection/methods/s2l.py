"""S2L: equal quotas over sources and over clusters of loss trajectories, random inside."""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.features.losses.loss_clusters import LossClusters
from xmas.selection.protocol import Ranked
from xmas.selection.rules.turns import in_turns, turns_of_clusters
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class S2l:
    """Sources in turns; in a source its clusters in turns; in a cluster random rows.

    So every budget is split over the sources, from the smallest up, as evenly as their sizes allow,
    and each source's part over its clusters in the same way. Text-only rows have losses and are
    ranked with the others.

    Source: S2L (arXiv 2403.07384), released `schedules/s2l.py`; XMAS builds on it; without a
    published result on image-text pools. Deviation: the release drops clusters of one or two rows;
    with `smallest: 3` their rows come last in their source, so that every budget can be met.
    """

    clusters: LossClusters
    smallest: int = 1  # rows that a cluster needs to take part

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        labels = np.load(store.get(self.clusters) / "labels.npy")
        shuffled = rng.permutation(len(labels))
        sources = self.clusters.sources_of_rows(store)
        clustered = shuffled[labels[shuffled] >= 0]
        parts = [clustered[:0]]
        for source in np.unique(sources):
            rows = clustered[sources[clustered] == source]
            in_order = np.arange(len(rows))
            turns = turns_of_clusters(labels[rows], in_order, smallest=self.smallest)
            parts.append(rows[turns])
        preferred = np.concatenate(parts)
        _, which = np.unique(sources[preferred], return_inverse=True)
        first = preferred[in_turns(which, np.arange(len(preferred)))]
        order = np.concatenate([first, np.flatnonzero(labels < 0)])
        return Ranked(order, np.full(len(labels), np.nan), labels)
