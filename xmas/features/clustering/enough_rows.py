"""Whether a pool has as many rows as clusters are wanted, before its features are computed."""

import dataclasses
from typing import Any

from xmas.data.pool import Pool
from xmas.features.clustering.cluster_count import ClusterCount, clusters_of
from xmas.store import Stage, Store

_NODES = {  # of the configuration, where it is not named as the features' kind
    ("clip_rows", "Clusters"): "clip",
    ("clip_rows", "Spherical"): "clip_directions",
}


def setting_of(clusters: Stage, features: Stage) -> str:
    """The setting of a stage's number of clusters, as the configuration has it."""
    node = _NODES.get((features.kind, type(clusters).__name__), features.kind)
    return f"clusters.{node}.k"


def pool_of(features: Any) -> Pool | None:
    """The pool whose rows a stage gives features of: the nearest in its fields."""
    if isinstance(pool := getattr(features, "pool", None), Pool):
        return pool
    if not dataclasses.is_dataclass(features) or isinstance(features, type):
        return None
    parts = (getattr(features, field.name) for field in dataclasses.fields(features))
    return next((pool for part in parts if (pool := pool_of(part)) is not None), None)


def check_enough(
    setting: str, k: int | ClusterCount, features: Any, store: Store, *, pictured: bool
) -> None:
    """Raise ValueError: a pool that is there has fewer rows than clusters.

    Args:
        setting: of the number of clusters.
        pictured: whether only rows with an image have the features.
    """
    pool = pool_of(features)
    if pool is None or not pool.at_hand(store):
        return
    rows = pool.open(store)
    count = int(rows.has_image.sum()) if pictured else len(rows)
    what = "rows have an image" if pictured else "rows are in the pool"
    if count == 0:
        raise ValueError(
            f"{setting}: {count} {what} ({rows.annotations}), so there are no clusters"
        )
    if count < clusters_of(k, count):
        raise ValueError(f"{setting}={k}, but {count} {what} ({rows.annotations}); set it lower")
