"""A table of several files: its rows where they are in them, memory-mapped, and its columns.

A group of rows of a Parquet file is decoded when one of its rows is asked for.
"""

import dataclasses
import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from xmas.data.rows import PoolError
from xmas.data.tables.shards import files_of, fingerprint, folder_of, state_of

_GROUPS = 8  # decoded row groups in memory; those of pictures have some hundred rows


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a table that are read together.

    Args:
        rows: their number.
        origin: the folder of their file below the table's, by which a source is named; "" if none.
        read: a `pyarrow.Table` of some columns; a leaf of a column by its dotted path.
        leaves: dotted paths of the columns' leaves; of an Arrow table its columns.
        schema: the Arrow schema of all columns.
        stored: values of the leaves called `bytes`; None: unknown.
    """

    rows: int
    origin: str
    read: Callable[[Sequence[str]], Any]
    leaves: tuple[str, ...]
    schema: Any
    stored: int | None = None

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        return list(dict.fromkeys(leaf.split(".")[0] for leaf in self.leaves))


class Table:
    """Random access to the rows of several chunks.

    Args:
        identity: gives the hash of the content, see `fingerprint`.
        size: gives the bytes of the files.
        shards: path and split of the files that it is of; None: it is in memory. Another process
            that is given the table opens them.
    """

    def __init__(
        self,
        chunks: Iterable[Chunk],
        identity: Callable[[], str],
        size: Callable[[], int],
        shards: tuple[Path, str | None] | None = None,
    ) -> None:
        self.chunks = list(chunks)
        self.identity, self.size, self.shards = identity, size, shards
        self.starts: Int[np.ndarray, " chunks_1"] = np.cumsum(
            [0, *(chunk.rows for chunk in self.chunks)]
        )
        self._decoded: OrderedDict[tuple[int, tuple[str, ...]], Any] = OrderedDict()
        self._converted: tuple[int, tuple[str, ...], list[dict[str, Any]], int] = 0, (), [], -1
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __reduce__(self) -> tuple[Callable[..., "Table"], tuple[Path, str | None]]:
        if self.shards is None:
            raise TypeError("a table in memory cannot be given to another process")
        return _opened, self.shards

    def record(self, row: int, columns: Sequence[str], *, ahead: int = 1) -> dict[str, Any]:
        """Some columns of a row, as Python has them.

        Args:
            ahead: rows that are converted together once two consecutive ones were asked for; for a
                row alone the conversion costs twenty times as much.
        """
        names = tuple(columns)
        first, names_of_run, run, last = self._converted
        if names_of_run != names or not first <= row < first + len(run):
            follows = names_of_run == names and row == last + 1
            number = int(np.searchsorted(self.starts, row, side="right")) - 1
            part = self._chunk(number, names).slice(
                row - int(self.starts[number]), ahead if follows else 1
            )
            first, run = row, part.to_pylist()
        if ahead > 1:
            self._converted = first, names, run, row
        return run[row - first]

    def column(self, name: str) -> np.ndarray:
        """(rows,) a column of numbers or texts; no other column is read.

        A missing number is NaN, a missing text None.

        Raises PoolError: there is no such column, or it has lists or objects.
        """
        import pyarrow

        names = dict.fromkeys(name for chunk in self.chunks for name in chunk.columns)
        if name not in names:
            raise PoolError(f"no column {name!r}; there are {', '.join(names)}")
        parts = [
            chunk.read([name]) if name in chunk.columns else _missing(name, chunk.rows)
            for chunk in self.chunks
        ]
        values = pyarrow.concat_tables(parts, promote_options="permissive").column(name)
        if pyarrow.types.is_nested(values.type):
            raise PoolError(
                f"column {name!r} is of type {values.type}; give one with a number or a "
                "text in every row"
            )
        return values.to_numpy()

    def _chunk(self, number: int, columns: tuple[str, ...]) -> Any:
        with self._lock:  # threads decode pictures; a file is read by one of them
            key = number, columns
            if key not in self._decoded:
                self._decoded[key] = self.chunks[number].read(columns)
                if len(self._decoded) > _GROUPS:
                    self._decoded.popitem(last=False)
            self._decoded.move_to_end(key)
            return self._decoded[key]


def open_table(path: Path, split: str | None = None) -> Table:
    """The table of a path, see `files_of`. Raises PoolError: a file is damaged."""
    chunks: list[Chunk] = []
    for file in files_of(path, split):
        origin = "" if file == path else file.parent.relative_to(folder_of(path)).parts[:1]
        try:
            chunks += _chunks(file, origin[0] if origin else "")
        except (OSError, ValueError) as error:  # pyarrow's errors are of both
            raise PoolError(f"{file}: {error}; fetch the file again") from error
    return Table(
        chunks,
        identity=lambda: fingerprint(path, split),
        size=lambda: state_of(path, split)[0],
        shards=(path, split),
    )


@functools.lru_cache(maxsize=1)
def _opened(path: Path, split: str | None) -> Table:
    """Opened once for all jobs of a process."""
    return open_table(path, split)


def _chunks(file: Path, origin: str) -> Iterator[Chunk]:
    import pyarrow
    import pyarrow.parquet

    if file.suffix == ".parquet":
        parquet = pyarrow.parquet.ParquetFile(file)  # a map of its pages would count as memory
        leaves = tuple(parquet.schema.column(n).path for n in range(len(parquet.schema)))
        schema = parquet.schema_arrow
        for number in range(parquet.num_row_groups):
            group = parquet.metadata.row_group(number)
            read = _row_group(parquet, number)
            yield Chunk(group.num_rows, origin, read, leaves, schema, _bytes_stored(group))
        return
    source = pyarrow.memory_map(str(file))
    try:
        table = pyarrow.ipc.open_stream(source).read_all()
    except pyarrow.ArrowInvalid:  # the other of the two formats
        table = pyarrow.ipc.open_file(source).read_all()
    yield from chunks_of(table, origin)


def functions() -> Any:
    """`pyarrow.compute`, whose functions are made at its import: no type checker knows them."""
    import pyarrow.compute

    return pyarrow.compute


def _missing(name: str, rows: int) -> Any:
    import pyarrow

    return pyarrow.table({name: pyarrow.nulls(rows)})


def _bytes_stored(group: Any) -> int | None:
    """How many images of a row group are in it, by its statistics; None: unknown."""
    columns = [group.column(number) for number in range(group.num_columns)]
    statistics = [c.statistics for c in columns if c.path_in_schema.endswith(".bytes")]
    if any(column is None for column in statistics):
        return None
    return sum(column.num_values for column in statistics)


def _row_group(parquet: Any, number: int) -> Callable[[Sequence[str]], Any]:
    return lambda columns: parquet.read_row_group(number, columns=list(columns))


def chunks_of(table: Any, origin: str = "") -> Iterator[Chunk]:
    """The chunks of an Arrow table, which is memory-mapped or in memory."""
    for batch in table.to_batches():
        if batch.num_rows:
            names = tuple(batch.schema.names)
            yield Chunk(batch.num_rows, origin, _selected(batch), names, batch.schema)


def _selected(batch: Any) -> Callable[[Sequence[str]], Any]:
    import pyarrow

    return lambda columns: pyarrow.Table.from_batches([batch]).select(list(columns))
