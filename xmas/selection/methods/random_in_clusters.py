"""Random in clusters: XMAS's clusters and quotas, random rows inside a cluster.

The control for XMAS's stability rule: the rule is worth what XMAS gains over this.
"""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.features.clustering.kmeans import Clusters
from xmas.selection.protocol import Ranked
from xmas.selection.rules.turns import turns_of_clusters
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class RandomInClusters:
    """Rows of clusters in turns, in random order; text-only rows are one more cluster.

    Source: a control of this package.
    """

    clusters: Clusters

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        labels = self.clusters.of_pool(store, pool.open(store).has_image)
        order = turns_of_clusters(labels, rng.permutation(len(labels)))
        return Ranked(order, np.full(len(labels), np.nan), labels)
