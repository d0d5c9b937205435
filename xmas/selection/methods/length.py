"""Length: k-means on numbers of text tokens or characters, equal quotas, random inside a cluster.

The control for methods whose features follow text length, as attention spectra do near
initialisation (R² 0.99997 on a random model): a gain that it has too is not the method's.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Int

from xmas.data.pool import Pool
from xmas.features.clustering.cluster_count import ClusterCount, clusters_of
from xmas.features.clustering.kmeans import kmeans
from xmas.selection.protocol import Ranked, TokenCounter
from xmas.selection.rules.turns import in_turns
from xmas.store import Stage, Store


@dataclasses.dataclass(frozen=True)
class Length:
    """Rows of length clusters in turns; a row's score is its number of text tokens.

    The lengths are those of the tokens that a proxy is trained on, or the characters of questions
    and answers, which need no model. Text-only rows are clustered with the others.

    Source: a control of this package, with XMAS's quotas and number of clusters.
    """

    proxy: TokenCounter | None  # whose tokens are counted; it is not fitted. None: characters
    k: int | ClusterCount = 1000  # at most; as the clusters of the method it controls
    iterations: int = 100
    seed: int = 1234  # of k-means

    def inputs(self) -> list[Stage]:
        return [] if self.proxy is None else [self.proxy.tokens()]

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        lengths = self._lengths(pool, store)
        labels = kmeans(
            lengths[:, None].astype(np.float32),
            min(clusters_of(self.k, len(lengths)), len(np.unique(lengths))),
            seed=self.seed,
            iterations=self.iterations,
            per_centroid=None,
        )
        order = in_turns(labels, rng.permutation(len(lengths)))
        return Ranked(order, lengths.astype(np.float64), labels)

    def _lengths(self, pool: Pool, store: Store) -> Int[np.ndarray, " rows"]:
        if self.proxy is not None:
            return self.proxy.tokens().open(store).text_lengths
        examples = pool.open(store)
        turns = (itertools.chain(*examples.conversation(row)) for row in range(len(examples)))
        return np.array([sum(map(len, of_row)) for of_row in turns], dtype=np.int64)
