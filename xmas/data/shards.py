"""Parquet and Arrow files of one table: which they are, their identity, and their rows.

Rows are read where they are in the files, memory-mapped; a group of rows of a Parquet file is
decoded when one of its rows is asked for. Only the footers are read beforehand.
"""

import dataclasses
import glob
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from xmas.data.rows import PoolError

SUFFIXES = (".parquet", ".arrow")
_GROUPS = 8  # decoded row groups in memory; those of pictures have some hundred rows
_ENDS = 1 << 16  # bytes of an Arrow file's two ends that are part of its identity
SPLITS = ("train", "validation", "test")


def is_sharded(path: Path) -> bool:
    """Whether a path is a table: a Parquet or Arrow file, a glob of such, or a folder."""
    return path.is_dir() or path.suffix in SUFFIXES or (_is_glob(path) and bool(_globbed(path)))


def files_of(path: Path, split: str | None = None) -> list[Path]:
    """The files of a table, in order.

    Args:
        path: a Parquet or Arrow file, a glob of such, a folder with some at any depth, or one that
            `datasets` saved.
        split: of a folder with several, by the names of files or folders; None: the only one, or
            "train".

    Raises PoolError: there are none; the message names what there is.
    """
    if path.is_file():
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
        chosen = split or ("train" if "train" in splits else splits[0])
        if chosen not in splits:
            raise PoolError(f"{path}: has no split {chosen!r}; pool.split may be {splits}")
        path = path / chosen
    if (state := path / "state.json").is_file():
        return [path / file["filename"] for file in json.loads(state.read_text())["_data_files"]]
    files = _globbed(path) if _is_glob(path) else _below(path)
    if not files:
        raise PoolError(
            f"{path}: no {' or '.join(SUFFIXES)} files; give a folder or a glob of them"
        )
    names = {file: {file.parent.name, file.name.split("-")[0].split(".")[0]} for file in files}
    of_split = {name: [file for file in files if name in names[file]] for name in SPLITS}
    chosen = split or next((name for name in SPLITS if of_split[name]), None)
    if chosen is None:
        return files
    if not (found := of_split.get(chosen, [])):
        there = [name for name in SPLITS if of_split[name]]
        raise PoolError(f"{path}: has no files of split {chosen!r}; there are {there or files[:3]}")
    return found


def fingerprint(path: Path, split: str | None = None) -> str:
    """The identity of a table without reading it: names, sizes and footers of its files.

    A Parquet footer has the number of rows and the statistics of all columns; of an Arrow file the
    first and last 64 KiB count. Raises PoolError: a Parquet file has no whole footer.
    """
    digest = hashlib.sha256()
    files = files_of(path, split)
    for file in files:
        name = file.name if file == path else str(file.relative_to(_root(path)))
        digest.update(f"{name}\t{file.stat().st_size}\n".encode())
        digest.update(_footer(file))
    return digest.hexdigest()


def state_of(path: Path, split: str | None = None) -> tuple[int, int]:
    """Bytes of a table's files, and when one of them was last changed, in ns."""
    stats = [file.stat() for file in files_of(path, split)]
    return sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a table that are read together.

    Args:
        rows: their number.
        origin: the folder of their file below the table's, by which a source is named; "" if none.
        read: a `pyarrow.Table` of some columns; a leaf of a column by its dotted path.
        leaves: dotted paths of the columns' leaves; of an Arrow table its columns.
        stored: values of the leaves called `bytes`; None: unknown.
    """

    rows: int
    origin: str
    read: Callable[[Sequence[str]], Any]
    leaves: tuple[str, ...]
    stored: int | None = None


class Table:
    """Random access to the rows of several chunks.

    Args:
        identity: gives the hash of the content, see `fingerprint`.
        size: gives the bytes of the files.
    """

    def __init__(
        self, chunks: Iterable[Chunk], identity: Callable[[], str], size: Callable[[], int]
    ) -> None:
        self.chunks = list(chunks)
        self.identity, self.size = identity, size
        self.starts: Int[np.ndarray, " chunks_1"] = np.cumsum(
            [0, *(chunk.rows for chunk in self.chunks)]
        )
        self._decoded: OrderedDict[tuple[int, tuple[str, ...]], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def record(self, row: int, columns: Sequence[str]) -> dict[str, Any]:
        """Some columns of a row, as Python has them."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        part = self._chunk(number, tuple(columns)).slice(row - int(self.starts[number]), 1)
        return part.to_pylist()[0]

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
        origin = "" if file == path else file.parent.relative_to(_root(path)).parts[:1]
        try:
            chunks += _chunks(file, origin[0] if origin else "")
        except (OSError, ValueError) as error:  # pyarrow's errors are of both
            raise PoolError(f"{file}: {error}; fetch the file again") from error
    return Table(
        chunks,
        identity=lambda: fingerprint(path, split),
        size=lambda: state_of(path, split)[0],
    )


def _chunks(file: Path, origin: str) -> Iterator[Chunk]:
    import pyarrow
    import pyarrow.parquet

    if file.suffix == ".parquet":
        parquet = pyarrow.parquet.ParquetFile(file, memory_map=True)
        leaves = tuple(parquet.schema.column(n).path for n in range(len(parquet.schema)))
        for number in range(parquet.num_row_groups):
            group = parquet.metadata.row_group(number)
            read = _row_group(parquet, number)
            yield Chunk(group.num_rows, origin, read, leaves, _bytes_stored(group))
        return
    source = pyarrow.memory_map(str(file))
    try:
        table = pyarrow.ipc.open_stream(source).read_all()
    except pyarrow.ArrowInvalid:  # the other of the two formats
        table = pyarrow.ipc.open_file(source).read_all()
    yield from chunks_of(table, origin)


def _bytes_stored(group: Any) -> int | None:
    """How many images of a row group are in it, by its statistics; None: unknown."""
    columns = [group.column(number) for number in range(group.num_columns)]
    statistics = [c.statistics for c in columns if c.path_in_schema.endswith(".bytes")]
    if any(one is None for one in statistics):
        return None
    return sum(one.num_values for one in statistics)


def _row_group(parquet: Any, number: int) -> Callable[[Sequence[str]], Any]:
    return lambda columns: parquet.read_row_group(number, columns=list(columns))


def chunks_of(table: Any, origin: str = "") -> Iterator[Chunk]:
    """The chunks of an Arrow table, which is memory-mapped or in memory."""
    for batch in table.to_batches():
        if batch.num_rows:
            yield Chunk(batch.num_rows, origin, _selected(batch), tuple(batch.schema.names))


def _selected(batch: Any) -> Callable[[Sequence[str]], Any]:
    import pyarrow

    return lambda columns: pyarrow.Table.from_batches([batch]).select(list(columns))


def _footer(file: Path) -> bytes:
    """Raises PoolError: a Parquet file has no footer, or not a whole one."""
    size = file.stat().st_size
    with file.open("rb") as content:
        if file.suffix == ".parquet":
            content.seek(-min(8, size), 2)
            end = content.read()
            length = int.from_bytes(end[:4], "little")
            if not end.endswith(b"PAR1") or 8 + length > size:
                raise PoolError(f"{file}: is not a whole Parquet file; fetch the file again")
            content.seek(-8 - length, 2)
            return content.read(length)
        head = content.read(_ENDS)
        content.seek(-min(_ENDS, size), 2)
        return head + content.read()


def _is_glob(path: Path) -> bool:
    return glob.has_magic(str(path)) and not path.exists()


def _globbed(path: Path) -> list[Path]:
    names = sorted(glob.glob(str(path), recursive=True))
    return [Path(name) for name in names if Path(name).suffix in SUFFIXES]


def _below(folder: Path) -> list[Path]:
    hidden = (file for file in folder.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    files = (
        file
        for file in hidden
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    return sorted(files)


def _root(path: Path) -> Path:
    """The folder that names of a table's files are relative to."""
    while _is_glob(path):
        path = path.parent
    return path
