"""XMAS: equal quotas for clusters of attention trajectories, the most stable rows first."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from xmas.data.pool import Pool
from xmas.features.clustering.kmeans import Clusters, kept_snapshots, reduce_spectra
from xmas.features.trajectories import Trajectories
from xmas.selection.protocol import Ranked
from xmas.selection.rules.turns import turns_of_clusters
from xmas.store import Store
from xmas.training.probe import schedule

STABILITIES = ("absolute", "relative", "log")


def total_variation(values: Float[np.ndarray, "rows steps"]) -> Float[np.ndarray, " rows"]:
    """Sum of the absolute differences of consecutive snapshots: low is stable. NaN stays NaN.

    Source: XMAS (arXiv 2510.01454), instability; released `kmeans_clustering.py`.
    """
    last = values[:, -1:]  # repeated: adds a zero difference, and keeps NaN with one snapshot
    return np.abs(np.diff(values, axis=1, append=last)).sum(axis=1)


def instability(
    values: Float[np.ndarray, "rows steps"], stability: str
) -> Float[np.ndarray, " rows"]:
    """Total variation of every row's values.

    Args:
        stability: `absolute`, of the values (the release): grows with them, so it prefers short
            texts and is dominated by the first drop. `relative`, of the values divided by the row's
            first, and `log`, of their logarithms: do not change when a row's values are multiplied
            by one number; not in paper or release.

    Raises:
        ValueError: no such stability; one snapshot only, which does not vary; a value that is not
            above 0 where it is a divisor or has a logarithm.
    """
    if stability not in STABILITIES:
        raise ValueError(f"stability {stability!r}: expected one of {', '.join(STABILITIES)}")
    if values.shape[1] < 2:
        raise ValueError(
            "xmas: one snapshot does not vary, so no row is more stable than another; "
            "keep two or more, or use selector=random_in_clusters"
        )
    if stability == "absolute":
        return total_variation(values)
    if (flat := np.flatnonzero((values <= 0).any(axis=1))).size:
        raise ValueError(
            f"stability {stability}: row {flat[0]} has values {values[flat[0]]}, "
            "expected all above 0; use selector.stability=absolute"
        )
    return total_variation(values / values[:, :1] if stability == "relative" else np.log(values))


@dataclasses.dataclass(frozen=True)
class Xmas:
    """Rows of trajectory clusters in turns, lowest instability first; its negative is the score.

    Instability is that of the clustered values, in the same snapshots, unscaled; of their sum if
    every singular value was a feature. Text-only rows have no trajectory: they are one more
    cluster, in random order, as in the release. This reduces their share a lot, but only under
    `subset.text_only=ranked`: every other policy sets the share itself. Rows with an image but
    without a trajectory come last.

    Source: XMAS (arXiv 2510.01454); released `kmeans_clustering.py`, `cluster_data_selection.py`;
    `variant=released` has all of the release's values. Deviations: the release drops clusters of
    one or two rows, whose rows come last here with `smallest: 3`, so that every budget can be met;
    it draws text-only rows without a seed.
    """

    trajectories: Trajectories
    clusters: Clusters
    stability: str = "absolute"  # relative, log
    smallest: int = 1  # rows that a cluster needs to take part

    def corrections(self) -> dict[str, Any]:
        """Instability is that of sums as they are clustered, rounded to float32; before, it was not
        rounded.
        """
        return {"instability": "of rounded sums"} if self._reduction == "sum" else {}

    @property
    def _reduction(self) -> str:
        return "sum" if self.clusters.reduction == "vector" else self.clusters.reduction

    def check(self, pool: Pool, store: Store) -> None:
        """Raises ValueError: the proxy's fit on this pool is so short that it has one snapshot."""
        proxy = self.trajectories.proxy
        total = proxy.recipe.steps(len(pool.open(store)))  # or fewer, of rows without an answer
        snapshots = np.array(schedule(total, proxy.snapshots), dtype=np.float64)
        if kept_snapshots(snapshots[None, :, None], self.clusters.snapshots).shape[1] < 2:
            raise ValueError(
                f"selector=xmas: the proxy's fit has {total} optimiser steps and {len(snapshots)} "
                f"snapshots, of which clusters.trajectories.snapshots={self.clusters.snapshots} "
                "leaves one, and one does not vary; lower proxy.recipe.batch, raise "
                "proxy.recipe.epochs, or use "
                "selector=random_in_clusters"
            )

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        has_image = pool.open(store).has_image
        labels = self.clusters.of_pool(store, has_image)
        values = np.load(store.get(self.trajectories) / "values.npy", mmap_mode="r")
        clusters = self.clusters
        snapshots = kept_snapshots(values, clusters.snapshots, shuffled=clusters.shuffled)
        clustered = reduce_spectra(snapshots, self._reduction).astype(np.float64)
        unstable = instability(clustered, self.stability)
        unstable[~has_image] = np.nan
        shuffled = rng.permutation(len(labels))
        ties = np.where(has_image, np.arange(len(labels)), shuffled)
        preferred = np.lexsort((ties, np.where(np.isnan(unstable), np.inf, unstable)))
        order = turns_of_clusters(labels, preferred, smallest=self.smallest)
        return Ranked(order, -unstable, labels)
