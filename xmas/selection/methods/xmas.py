"""XMAS: equal quotas over clusters of attention trajectories, the most stable rows first."""

import dataclasses

import numpy as np
from jaxtyping import Float

from xmas.data.pool import Pool
from xmas.features.clustering.kmeans import Clusters, kept_snapshots, reduce_spectra
from xmas.features.trajectories import Trajectories
from xmas.selection.protocol import Ranked
from xmas.selection.rules.turns import turns_of_clusters
from xmas.store import Store

STABILITIES = ("absolute", "relative", "log")


def total_variation(values: Float[np.ndarray, "rows steps"]) -> Float[np.ndarray, " rows"]:
    """Sum over neighbouring snapshots of the absolute difference: low is stable. NaN stays NaN.

    Source: XMAS (arXiv 2510.01454), instability; released `kmeans_clustering.py`.
    """
    last = values[:, -1:]  # once more, a difference of zero: or NaN in one snapshot would be 0
    return np.abs(np.diff(values, axis=1, append=last)).sum(axis=1)


def instability(
    values: Float[np.ndarray, "rows steps"], stability: str
) -> Float[np.ndarray, " rows"]:
    """Total variation: `absolute`, of the value (the release); `relative`, of the value divided by
    the row's first; `log`, of its logarithm.

    The absolute one grows with the value, so it prefers short texts and is dominated by the first
    drop. The others do not change when a row's values are all multiplied by one number; they are
    not in paper or release. Raises ValueError: no such stability, one snapshot alone, which does
    not vary, or a value that has no logarithm or is nothing to divide by.
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
    """Rows of trajectory clusters in turns, lowest instability first; its negative scores.

    Instability is measured on the values that were clustered, in the same snapshots, unscaled; on
    their sum where every singular value was clustered on its own.

    Text-only rows have no trajectory: they are one more cluster, visited like the others, in random
    order. That is the release's treatment and reduces their share a lot; it counts only under
    `subset.text_only=ranked`, every other policy sets the share itself. Rows with an image but
    without a trajectory come last. The release also drops clusters of one or two rows, which
    `smallest: 3` does (their rows come last, so that every budget can be met), and draws text-only
    rows without a seed, which is not done here; `variant=released` sets all of it.
    """

    trajectories: Trajectories
    clusters: Clusters
    stability: str = "absolute"  # relative, log
    smallest: int = 1  # rows that a cluster needs to take part

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        has_image = pool.open(store).has_image
        labels = self.clusters.of_pool(store, has_image)
        values = np.load(store.get(self.trajectories) / "values.npy", mmap_mode="r")
        how = self.clusters
        kept = kept_snapshots(values, how.snapshots, shuffled=how.shuffled).astype(np.float64)
        reduction = "sum" if how.reduction == "vector" else how.reduction
        unstable = instability(reduce_spectra(kept, reduction), self.stability)
        unstable[~has_image] = np.nan
        shuffled = rng.permutation(len(labels))
        ties = np.where(has_image, np.arange(len(labels)), shuffled)
        preferred = np.lexsort((ties, np.where(np.isnan(unstable), np.inf, unstable)))
        order = turns_of_clusters(labels, preferred, smallest=self.smallest)
        return Ranked(order, -unstable, labels)
