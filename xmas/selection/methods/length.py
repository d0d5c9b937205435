"""Length: k-means on the number of text tokens, equal quotas, random inside a cluster.

The control for methods whose features follow text length, as attention spectra do near
initialisation (R² 0.99997 on a random model): a gain that it has too is not the method's.
"""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.features.clustering.cluster_count import ClusterCount, clusters_of
from xmas.features.clustering.kmeans import kmeans
from xmas.selection.protocol import Ranked
from xmas.selection.rules.turns import in_turns
from xmas.store import Stage, Store
from xmas.training.proxy import Proxy


@dataclasses.dataclass(frozen=True)
class Length:
    """Rows of length clusters in turns; a row's score is its number of text tokens.

    The lengths are those of the tokens that a proxy is trained on. Text-only rows are clustered
    with the others.

    Source: a control of this package, with XMAS's quotas and number of clusters.
    """

    proxy: Proxy  # whose tokens are counted; it is not fitted
    k: int | ClusterCount = 1000  # at most; as the clusters of the method it controls
    iterations: int = 100
    seed: int = 1234  # of k-means

    def inputs(self) -> list[Stage]:
        return [self.proxy.tokens()]

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        lengths = self.proxy.tokens().open(store).text_lengths
        labels = kmeans(
            lengths[:, None].astype(np.float32),
            min(clusters_of(self.k, len(lengths)), len(np.unique(lengths))),
            seed=self.seed,
            iterations=self.iterations,
            per_centroid=None,
        )
        order = in_turns(labels, rng.permutation(len(lengths)))
        return Ranked(order, lengths.astype(np.float64), labels)
