"""Clusters of loss trajectories, source by source."""

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import numpy as np

from xmas.data.pool import Pool
from xmas.features.clustering.cluster_count import ClusterCount, clusters_of
from xmas.features.clustering.kmeans import kmeans
from xmas.features.losses.answers import Answers
from xmas.store import Stage, Store


@dataclasses.dataclass(frozen=True)
class LossClusters(Stage):
    """k-means clusters of loss trajectories, separately for every source.

    Writes `labels.npy` (rows,) int64: the cluster, numbered across all sources, -1 for a row
    without a loss; `sizes.json`, the rows of every cluster. A source of fewer rows than `k` has a
    cluster per row.

    Source: S2L (arXiv 2403.07384), released `schedules/s2l.py`: 100 clusters of every source, 20
    iterations. Deviations: the release trains on at most 256 rows per centroid and puts 0 for a
    missing loss; here all rows train, and a row without a loss is in no cluster.

    Args:
        answers: whose losses after every step are the trajectories.
        k: clusters of a source, at most; a `ClusterCount` depends on the rows of the source.
        per_source: False: cluster all rows together.
        per_centroid: rows that train, times k; None: all.
        seed: FAISS's own default.
    """

    kind: ClassVar[str] = "loss_clusters"

    pool: Pool
    answers: Answers
    k: int | ClusterCount = 100
    per_source: bool = True
    iterations: int = 20
    per_centroid: int | None = None
    seed: int = 1234

    def sources_of_rows(self, store: Store) -> np.ndarray:
        """(rows,) the name of every row's source, or "all" if all are clustered together."""
        sources = self.pool.open(store).sources
        return sources if self.per_source else np.full(len(sources), "all")

    def compute(self, store: Store, out: Path) -> None:
        losses = self.answers.losses(store).astype(np.float32)
        sources = np.where(np.isnan(losses).any(axis=1), "", self.sources_of_rows(store))
        labels = np.full(len(losses), -1, dtype=np.int64)
        for source in np.unique(sources[sources != ""]):
            rows = np.flatnonzero(sources == source)
            clusters = kmeans(
                losses[rows],
                min(clusters_of(self.k, len(rows)), len(rows)),
                seed=self.seed,
                iterations=self.iterations,
                per_centroid=self.per_centroid,
            )
            labels[rows] = labels.max() + 1 + np.unique(clusters, return_inverse=True)[1]
        np.save(out / "labels.npy", labels)
        (out / "sizes.json").write_text(json.dumps(np.bincount(labels[labels >= 0]).tolist()))
