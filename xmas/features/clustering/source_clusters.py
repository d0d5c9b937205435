"""k-means clusters of a feature, source by source."""

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import numpy as np

from xmas.data.pool import Pool
from xmas.features.clip.embedded import unit
from xmas.features.clustering.kmeans import kmeans
from xmas.store import Stage, Store


@dataclasses.dataclass(frozen=True)
class SourceClusters(Stage):
    """Clusters of unit vectors, separately for every source, a share of its rows each.

    Writes `labels.npy` (rows,) int64: the cluster, numbered across all sources, -1 for a row
    without the feature; `sizes.json`, the rows of every cluster.

    Source: PreSel (arXiv 2503.07591), released `kmeans_clust.py`: 1 % of a task's images as
    clusters, of features of length one. Deviation: FAISS, where the release has scikit-learn.

    Args:
        features: with `values.npy` (rows, d), NaN on rows without it.
        share: clusters, of a source's rows that have the feature; at least one.
        per_centroid: rows that train, times the clusters; None: all.
        seed: of the release.
    """

    kind: ClassVar[str] = "source_clusters"

    pool: Pool
    features: Stage
    share: float = 0.01
    iterations: int = 100
    per_centroid: int | None = None
    seed: int = 12345

    def compute(self, store: Store, out: Path) -> None:
        values = np.load(store.get(self.features) / "values.npy", mmap_mode="r")
        source = self.pool.open(store).index.source[:]
        has = np.isfinite(values[:, 0])
        labels = np.full(len(values), -1, dtype=np.int64)
        for each in np.unique(source[has]):
            rows = np.flatnonzero(has & (source == each))
            clusters = kmeans(
                unit(values[rows].astype(np.float32)),
                max(1, int(self.share * len(rows))),
                seed=self.seed,
                iterations=self.iterations,
                per_centroid=self.per_centroid,
                setting="clusters.sources.share",
            )
            labels[rows] = labels.max() + 1 + np.unique(clusters, return_inverse=True)[1]
        np.save(out / "labels.npy", labels)
        (out / "sizes.json").write_text(json.dumps(np.bincount(labels[labels >= 0]).tolist()))
