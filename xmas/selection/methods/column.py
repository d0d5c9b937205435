"""Column: rows by a number that every one of them has, in the pool or in a file of scores."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from xmas.data.pool import Pool
from xmas.data.rows import Rows
from xmas.features.clustering.kmeans import Clusters
from xmas.selection.finite import MISSING, finite
from xmas.selection.protocol import Ranked
from xmas.selection.rules.shares import in_shares
from xmas.selection.rules.turns import turns_of_clusters
from xmas.selection.score_file import ROW, ScoreFile
from xmas.store import Store, content

ORDERS = ("descending", "ascending")
SOURCES = "sources"


@dataclasses.dataclass(frozen=True)
class Column:
    """Highest number first, ties by row: a rating of the pool, or anybody's scores in a file.

    A row's score is its number, its negative if the lowest come first, so that high is good. Draws
    nothing and needs no model.

    Inside `sources`, every source keeps its share of the pool at every budget, the best of its rows
    first (`rules.shares.in_shares`; of sources at equal places the larger comes first). Inside
    clusters, these take turns, as in XMAS, and text-only rows are one more.

    Source: this package; ratings such as FineVision's are the usual column.

    Raises:
        ValueError: no such `order`, `missing` or `within`.
        ScoreFileError, a ValueError: see `selection.score_file`.
    """

    column: str | None = None  # of the pool's records, or of the file; None: the file's only one
    file: str | None = content(None)  # .parquet, .csv, .jsonl; None: the pool has the column
    key: str | None = None  # of the file: `row`, or what pool and file have, e.g. id; None: either
    order: str = "descending"  # ascending: the lowest number first
    within: str | Clusters | None = None  # sources, or clusters
    missing: str = "error"  # last: rows without a number follow all others, by row

    def __post_init__(self) -> None:
        for setting, value, choices in (
            ("order", self.order, ORDERS),
            ("missing", self.missing, MISSING),
        ):
            if value not in choices:
                raise ValueError(
                    f"selector.{setting}={value!r}: expected one of {', '.join(choices)}"
                )
        if isinstance(self.within, str) and self.within != SOURCES:
            raise ValueError(
                f"selector.within={self.within!r}: expected {SOURCES}, or clusters, such as "
                "'selector.within=${clusters.trajectories}'"
            )

    def check(self, pool: Pool, store: Store) -> None:
        """Raises ValueError: a row has no number, see `rank`."""
        if pool.whole is pool:  # or which rows are left is known only when they are computed
            self._numbers(pool, store)

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        """Raises ValueError: no such column, or a row's value is missing or no finite number."""
        rows = pool.open(store)
        numbers = self._numbers(pool, store)
        scores = numbers if self.order == "descending" else -numbers
        preferred = np.argsort(-scores, kind="stable")  # NaN last
        if self.within is None:
            return Ranked(preferred, scores, np.full(len(scores), -1))
        if isinstance(self.within, Clusters):
            labels = self.within.of_pool(store, rows.has_image)
            return Ranked(turns_of_clusters(labels, preferred), scores, labels)
        labels = rows.index.source[:].astype(np.int64)
        sizes = np.bincount(labels, minlength=len(rows.index.source_names))
        turn = np.argsort(np.argsort(-sizes, kind="stable"))
        return Ranked(in_shares(labels, preferred, turn), scores, labels)

    def _numbers(self, pool: Pool, store: Store) -> Float[np.ndarray, " rows"]:
        rows = pool.open(store)
        return self._of_pool(rows) if self.file is None else self._of_file(pool, rows, store)

    def _of_pool(self, rows: Rows) -> Float[np.ndarray, " rows"]:
        if self.column is None:
            names = ", ".join(rows[0]) if len(rows) else "no rows"
            raise ValueError(
                "selector.column is not set; name a column of the pool with a number in every row, "
                f"or a file of scores: selector.file. {rows.annotations} has {names}"
            )
        return finite(
            rows.column(self.column),
            lambda row: f"{rows.annotations}: row {rows.file_row(row)}",
            self.column,
            self.missing,
        )

    def _of_file(self, pool: Pool, rows: Rows, store: Store) -> Float[np.ndarray, " rows"]:
        assert self.file is not None
        file = ScoreFile(self.file)
        key = file.key(self.key)
        name = file.score(self.column, key)
        if key == ROW:
            places = file.rows_by_number(key, *_numbers_in_file(pool, rows, store))
        else:
            places = file.rows_by_value(key, rows.column(key).tolist(), str(rows.annotations))
        absent = places < 0
        if absent.any() and self.missing == "error":
            first = rows.file_row(int(absent.argmax()))
            raise ValueError(
                f"{self.file}: has no row for {absent.sum()} of the pool's {len(rows)} rows, first "
                f"row {first}; add them, or rank them after all others: "
                "selector.missing=last"
            )
        scores = np.full(len(rows), np.nan)
        scores[~absent] = finite(
            file.scores(name)[places[~absent]],
            lambda row: f"{self.file}: {file.place(int(places[~absent][row]))}",
            name,
            self.missing,
        )
        return scores


def _numbers_in_file(pool: Pool, rows: Rows, store: Store) -> tuple[Int[np.ndarray, " rows"], int]:
    """The number of every row in the pool's own file, and how many that file has: other ones than
    the pool's where rows are left out or held out.
    """
    numbers = pool.file_rows(store, np.arange(len(rows)))
    if pool.valid_rows is not None:
        return numbers, pool.valid_rows.skipped(store)["of"]
    return numbers, len(pool.whole.open(store))
