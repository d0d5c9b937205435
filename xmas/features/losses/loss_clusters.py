"""Clusters of loss trajectories, each source's apart."""

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import numpy as np

from xmas.data.pool import Pool
from xmas.features.clustering.kmeans import kmeans
from xmas.features.losses.answers import Answers
from xmas.store import Stage, Store


@dataclasses.dataclass(frozen=True)
class LossClusters(Stage):
    """`labels.npy` (rows,) int64: the cluster, numbered through all sources, -1 for a row without a
    loss; `sizes.json`, rows of every cluster.

    A source of fewer rows than `k` has a cluster a row. The release trains on at most 256 rows a
    centroid and puts 0 for a missing loss; here all rows train, and such a row is in no cluster.
    Source: S2L (arXiv 2403.07384), release `schedules/s2l.py`: 100 clusters of every source, 20
    iterations.
    """

    kind: ClassVar[str] = "loss_clusters"

    pool: Pool
    answers: Answers
    k: int = 100  # of a source, at most
    per_source: bool = True  # false: all rows together
    iterations: int = 20
    per_centroid: int | None = None  # rows that train, times k; null: all
    seed: int = 1234  # FAISS's own default

    def sources(self, store: Store) -> np.ndarray:
        """What is clustered apart: (rows,), the name of every row's source."""
        found = self.pool.open(store).sources
        return found if self.per_source else np.full(len(found), "all")

    def compute(self, store: Store, out: Path) -> None:
        losses = self.answers.losses(store).astype(np.float32)
        sources = np.where(np.isnan(losses).any(axis=1), "", self.sources(store))
        labels = np.full(len(losses), -1, dtype=np.int64)
        for source in np.unique(sources[sources != ""]):
            rows = np.flatnonzero(sources == source)
            found = kmeans(
                losses[rows],
                min(self.k, len(rows)),
                seed=self.seed,
                iterations=self.iterations,
                per_centroid=self.per_centroid,
            )
            labels[rows] = labels.max() + 1 + np.unique(found, return_inverse=True)[1]
        np.save(out / "labels.npy", labels)
        (out / "sizes.json").write_text(json.dumps(np.bincount(labels[labels >= 0]).tolist()))
