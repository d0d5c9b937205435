"""Scores of the rows of a pool in a file of any origin: Parquet, CSV or JSON lines."""

import csv
import importlib.util
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from xmas.store.nearest import suggestion

log = logging.getLogger(__name__)

ROW = "row"  # the column that has row numbers
ID = "id"


class ScoreFileError(ValueError):
    """A score file does not fit its pool; the message names file, place, value and remedy."""


class ScoreFile:
    """The columns of a file with one score a row of the pool, and how they belong to its rows.

    Every row of the file has a key: the number of a row of the pool, from 0, or a value by which
    the pool knows the row too, such as its id.

    Attributes:
        path: as the user gave it.
        names: of the columns.
    """

    def __init__(self, path: str) -> None:
        """Read the names of the columns; of CSV and JSON lines all of the file.

        Raises ScoreFileError: the file is in none of the three forms, or damaged.
        """
        self.path = path
        if path.endswith(".parquet"):
            self._columns: dict[str, Any] | None = None
            self._lines: Sequence[int] | None = None
            self.names = _parquet(path).schema_arrow.names
            return
        if path.endswith((".csv", ".jsonl")):
            read = _csv if path.endswith(".csv") else _json_lines
            try:
                self._columns, self._lines = read(path)
            except UnicodeDecodeError as error:
                raise ScoreFileError(
                    f"{path}: is not in UTF-8 ({error}); save it as UTF-8"
                ) from error
            self.names = list(self._columns)
            return
        raise ScoreFileError(f"{path}: a score file ends in .parquet, .csv or .jsonl; convert it")

    def place(self, number: int) -> str:
        """Where a row of the file is, as a message names it."""
        return f"row {number}" if self._lines is None else f"line {self._lines[number]}"

    def key(self, name: str | None) -> str:
        """The column of the keys: `name`, or if it is None `row` or `id`, whichever is there.

        Raises ScoreFileError: there is no such column.
        """
        if name is None:
            name = next((usual for usual in (ROW, ID) if usual in self.names), None)
        if name is None:
            raise ScoreFileError(
                f"{self.path}: has no column {ROW!r} (numbers of the pool's rows, from 0) and no "
                f"column {ID!r}; add one, or set selector.key to the column that names the rows. "
                f"There are {', '.join(self.names) or 'none'}"
            )
        if name not in self.names:
            raise ScoreFileError(f"{self.path}: selector.key={name} is no column{self._has(name)}")
        return name

    def score(self, name: str | None, key: str) -> str:
        """The column of the scores: `name`, or if it is None the only one that is not the key.

        Raises ScoreFileError: there is no such column, or there are several.
        """
        others = [column for column in self.names if column != key]
        if name is None and len(others) == 1:
            return others[0]
        if name is None:
            raise ScoreFileError(
                f"{self.path}: selector.column is not set; name the column of the scores. There "
                f"are {', '.join(others) or f'none besides {key}'}"
            )
        if name not in self.names:
            raise ScoreFileError(
                f"{self.path}: selector.column={name} is no column{self._has(name)}"
            )
        return name

    def column(self, name: str) -> np.ndarray:
        """The values of a column as they are in the file, None or NaN where one is missing."""
        if self._columns is not None:
            return _objects(self._columns[name])
        values = _parquet(self.path).read([name]).column(name)
        return values.to_numpy()

    def scores(self, name: str) -> np.ndarray:
        """The values of a column; of CSV, which has texts alone, the numbers that they are."""
        values = self.column(name)
        return _objects(map(_number, values)) if self.path.endswith(".csv") else values

    def rows_by_number(
        self, key: str, numbers: Int[np.ndarray, " rows"], count: int
    ) -> Int[np.ndarray, " rows"]:
        """The file's row for every row of the pool, by the numbers in a column; -1 where none is.

        Args:
            numbers: of the pool's rows, as the column has them.
            count: they are below it.

        Raises ScoreFileError: a number is no row of the pool, or there twice.
        """
        keys = _whole(self.column(key))
        wrong = np.flatnonzero((keys < 0) | (keys >= count))
        if len(wrong):
            value = self.column(key)[wrong[0]]
            raise ScoreFileError(
                f"{self.path}: {self.place(int(wrong[0]))} has {key} {_shown(value)}; the pool has "
                f"rows 0 to {count - 1}, so take the file of this pool, or join by another column: "
                "selector.key=id"
            )
        if len(keys) > len(np.unique(keys)):
            first, again = _first_double(keys.tolist())
            self._refuse_double(key, keys[again], first, again)
        places = np.full(count, -1, dtype=np.int64)
        places[keys] = np.arange(len(keys))
        return places[numbers]

    def rows_by_value(
        self, key: str, pool_values: Sequence[Any], pool_name: str
    ) -> Int[np.ndarray, " rows"]:
        """The file's row for every row of the pool, by equal values of a column that both have; -1
        where none is. Numbers equal their text; what belongs to no row of the pool is logged.

        Args:
            pool_values: of the pool's rows; None where a record has none.
            pool_name: of the pool's file, for messages.

        Raises ScoreFileError: a value is missing, or is there twice, in the pool or in the file.
        """
        keys = [None if _is_missing(value) else str(value) for value in self.column(key)]
        if None in keys:
            raise ScoreFileError(
                f"{self.path}: {self.place(keys.index(None))} has no {key}; add it, or remove the "
                "row"
            )
        numbers = {value: number for number, value in enumerate(keys)}
        if len(numbers) < len(keys):
            first, again = _first_double(keys)
            self._refuse_double(key, keys[again], first, again)
        values = [None if _is_missing(value) else str(value) for value in pool_values]
        if None in values:
            raise ScoreFileError(
                f"{pool_name}: row {values.index(None)} has no {key}, by which {self.path} names "
                f"rows; use a file with a column {ROW!r}, the numbers of the pool's rows from 0"
            )
        if len(set(values)) < len(values):
            first, again = _first_double(values)
            raise ScoreFileError(
                f"{pool_name}: {key} {values[again]!r} is that of rows {first} and {again}, so "
                f"{self.path} cannot tell them apart; use a file with a column {ROW!r}, the "
                "numbers of the pool's rows from 0"
            )
        rows = np.array([numbers.get(value, -1) for value in values], dtype=np.int64)
        if others := len(keys) - int((rows >= 0).sum()):
            log.warning("%s: %d of its %d rows are not of this pool", self.path, others, len(keys))
        return rows

    def _refuse_double(self, key: str, value: Any, first: int, again: int) -> None:
        raise ScoreFileError(
            f"{self.path}: {key} {_shown(value)} is there twice, in {self.place(first)} and "
            f"{self.place(again)}; keep one of them"
        )

    def _has(self, name: str) -> str:
        return suggestion(name, self.names)


def _parquet(path: str) -> Any:
    if importlib.util.find_spec("pyarrow") is None:
        raise ScoreFileError(f"{path}: reading it needs pyarrow: pip install 'xmas[parquet]'")
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path, memory_map=True)
    except pyarrow.ArrowInvalid as error:
        raise ScoreFileError(f"{path}: is no whole Parquet file ({error}); write it anew") from None


def _csv(path: str) -> tuple[dict[str, list[Any]], list[int]]:
    """Columns as text, None for an empty cell; and the line of every row."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        names = next(reader, [])
        if len(set(names)) < len(names):
            first, again = _first_double(names)
            raise ScoreFileError(
                f"{path}: columns {first + 1} and {again + 1} are both called {names[again]!r}; "
                "rename one"
            )
        cells, lines = [], []
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                raise ScoreFileError(
                    f"{path}: line {reader.line_num} has {len(row)} cells, the first line "
                    f"{len(names)}; put texts with a comma in quotes"
                )
            cells.append(row)
            lines.append(reader.line_num)
    columns = zip(*cells, strict=True) if cells else [()] * len(names)
    return {
        name: [text or None for text in column] for name, column in zip(names, columns, strict=True)
    }, lines


def _number(text: str | None) -> Any:
    """The number that a cell has; a text that is none stays."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _json_lines(path: str) -> tuple[dict[str, list[Any]], list[int]]:
    records, lines = [], []
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ScoreFileError(
                    f"{path}: line {number} is no JSON ({error}); one object a line is expected"
                ) from error
            if not isinstance(record, dict):
                raise ScoreFileError(
                    f"{path}: line {number} is {_shown(record)}; one object a line is expected, "
                    'such as {"row": 0, "score": 0.5}'
                )
            records.append(record)
            lines.append(number)
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}, lines


def _objects(values: Iterable[Any]) -> np.ndarray:
    listed = list(values)
    array = np.empty(len(listed), dtype=object)
    array[:] = listed
    return array


def _whole(values: np.ndarray) -> Int[np.ndarray, " rows"]:
    """Row numbers; -1 for what is none."""
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    return np.array([_row_number(value) for value in values.tolist()], dtype=np.int64)


def _row_number(value: Any) -> int:
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        return int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        return int(value)
    return -1


def _first_double(values: Sequence[Any]) -> tuple[int, int]:
    """The first two positions with the same value, of values that have some."""
    positions: dict[Any, int] = {}
    for position, value in enumerate(values):
        if value in positions:
            return positions[value], position
        positions[value] = position
    raise AssertionError("every value is there once")


def _is_missing(value: Any) -> bool:
    return value is None or value != value


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
