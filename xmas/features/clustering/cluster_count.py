"""How many clusters: a number, or a published one that a pool of few rows lowers."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ClusterCount:
    """A number of clusters that leaves enough rows to each.

    >>> from xmas.features.clustering.cluster_count import ClusterCount
    >>> published = ClusterCount(most=1000, rows_each=39)
    >>> [published.of(rows) for rows in (665_298, 2_606, 20)]
    [1000, 66, 1]

    Args:
        most: clusters of a pool of any size, the published number.
        rows_each: rows for every cluster, on average, at least.
    """

    most: int
    rows_each: int

    def of(self, rows: int) -> int:
        """The number of clusters of this many rows; 1 of fewer than `rows_each`."""
        return max(1, min(self.most, rows // self.rows_each))

    def __str__(self) -> str:
        return f"at most {self.most:,}, {self.rows_each} rows each"


def clusters_of(k: int | ClusterCount, rows: int) -> int:
    """The clusters that a setting gives this many rows; a plain number is that number."""
    return k.of(rows) if isinstance(k, ClusterCount) else k
