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
    """Sources in turns, in each of them its clusters in turns, in each of these at random.

    So every budget is split over the sources, from the smallest up, as evenly as their sizes allow,
    and each source's part over its clusters in the same way. Text-only rows have losses and
    are ranked with the others. The release drops clusters of one or two rows, which `smallest: 3`
    does: in their source their rows come last, so that every budget can be met.
    Source: S2L (arXiv 2403.07384), release `schedules/s2l.py`; XMAS's ancestor, without a published
    result on image-text pools.
    """

    clusters: LossClusters
    smallest: int = 1  # rows that a cluster needs to take part

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        labels = np.load(store.get(self.clusters) / "labels.npy")
        drawn = rng.permutation(len(labels))
        sources = self.clusters.sources(store)
        kept = drawn[labels[drawn] >= 0]
        parts = [kept[:0]]
        for source in np.unique(sources):
            rows = kept[sources[kept] == source]
            drawn_first = np.arange(len(rows))
            turns = turns_of_clusters(labels[rows], drawn_first, smallest=self.smallest)
            parts.append(rows[turns])
        preferred = np.concatenate(parts)
        _, which = np.unique(sources[preferred], return_inverse=True)
        first = preferred[in_turns(which, np.arange(len(preferred)))]
        order = np.concatenate([first, np.flatnonzero(labels < 0)])
        return Ranked(order, np.full(len(labels), np.nan), labels)
