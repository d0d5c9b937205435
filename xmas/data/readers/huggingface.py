"""Hugging Face datasets: a folder, a glob or a file of Parquet or Arrow, a folder that `datasets`
saved, one of the hub, or one in memory.

Columns: `images` or `image`; `texts`, `messages`, `conversations`, or `prompt` and `completion`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xmas.data.datasets_by_name import dataset_of, is_dataset
from xmas.data.indexes.stored_index import StoredIndexes
from xmas.data.rows import PoolError
from xmas.data.tables.arrow_rows import ArrowRows
from xmas.data.tables.shards import is_sharded
from xmas.data.tables.table import Chunk, Table, chunks_of, open_table

_GATHERED = 64  # rows that are read together where a dataset has them in another order


def recognises(annotations: Path, head: bytes) -> bool:
    """Whether a path is a table, a dataset in memory, or is not there and named as on the hub."""
    return is_sharded(annotations) or is_dataset(str(annotations))


def read(
    annotations: Path,
    images: Path,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    indexes: StoredIndexes | None = None,
) -> ArrowRows:
    """Open a dataset. Raises PoolError: it is not there, or has malformed rows."""
    return ArrowRows(
        annotations,
        images,
        table_of(annotations, split),
        columns=columns,
        split=split,
        indexes=indexes,
    )


def read_all(
    annotations: Path,
    images: Path,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    indexes: StoredIndexes | None = None,
) -> ArrowRows:
    """Open a dataset, with malformed rows in `faults`. Raises PoolError: it is not there."""
    table = table_of(annotations, split)
    return ArrowRows(
        annotations, images, table, columns=columns, split=split, indexes=indexes, refuse=False
    )


def table_of(annotations: Path, split: str | None) -> Table:
    """The table of a pool. Raises PoolError: pyarrow or `datasets` is missing, or the dataset."""
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise PoolError(
            f"{annotations}: reading it needs pyarrow: pip install 'xmas[parquet]'"
        ) from error
    if is_sharded(annotations):
        return open_table(annotations, split)
    return _of_dataset(dataset_of(str(annotations), split))


def _of_dataset(dataset: Any) -> Table:
    chunks = chunks_of(dataset.data.table)
    if dataset._indices is not None:  # rows that were selected, in any order
        chunks = (_gathered(dataset, start) for start in range(0, len(dataset), _GATHERED))
    return Table(chunks, identity=lambda: dataset._fingerprint, size=lambda: dataset.data.nbytes)


def _gathered(dataset: Any, start: int) -> Chunk:
    stop = min(start + _GATHERED, len(dataset))

    def read(columns: Sequence[str]) -> Any:
        return dataset.select_columns(list(columns)).with_format("arrow")[start:stop]

    schema = dataset.data.schema
    return Chunk(stop - start, "", read, tuple(dataset.column_names), schema)
