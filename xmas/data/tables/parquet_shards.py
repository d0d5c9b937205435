"""Write a table as Parquet shards, as Hugging Face's `datasets` finds them in a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

GROUP_BYTES = 1 << 26  # of a group of rows, which readers decode as a whole
SHARD_BYTES = 500_000_000  # of rows, not compressed: what `datasets` aims at
_TEXT = {"dtype": "string", "_type": "Value"}
_IMAGE = {"_type": "Image"}


class ParquetShards:
    """The files `train-00000.parquet` and on, in a folder; few groups of rows are in memory.

    Args:
        repeated: rows that follow each other have the same pictures: each is stored once a group.
    """

    def __init__(self, folder: Path, *, repeated: bool = False) -> None:
        self._folder = folder
        self._dictionary = 2 * GROUP_BYTES if repeated else 1 << 20  # bytes; the second: pyarrow's
        self._waiting: list[Any] = []
        self._bytes = self._written = self._shards = 0
        self._writer: Any = None

    def __enter__(self) -> "ParquetShards":
        return self

    def add(self, table: Any) -> None:
        """Append the rows of a `pyarrow.Table`; all have the same columns."""
        if table.num_rows:
            self._waiting.append(table)
            self._bytes += table.nbytes
        if self._bytes >= GROUP_BYTES:
            self._write()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._waiting:
            self._write()
        if self._writer is not None:
            self._writer.close()

    def _write(self) -> None:
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.concat_tables(self._waiting)
        if self._writer is None:
            self._writer = pyarrow.parquet.ParquetWriter(
                self._folder / f"train-{self._shards:05}.parquet",
                table.schema,
                dictionary_pagesize_limit=self._dictionary,
            )
        self._writer.write_table(table, row_group_size=table.num_rows)
        self._written += self._bytes
        self._waiting, self._bytes = [], 0
        if self._written >= SHARD_BYTES:
            self._writer.close()
            self._writer, self._written = None, 0
            self._shards += 1


def schema_of(features: Mapping[str, Any]) -> Any:
    """The schema of a table with the features of `datasets`, which reads them from its metadata.

    Args:
        features: of each column "text", "images", or the names of the texts of its turns, of which
            "parts" are a list of {type, text}.
    """
    import pyarrow

    text = pyarrow.string()
    types = {
        "text": text,
        "images": pyarrow.list_(pyarrow.struct({"bytes": pyarrow.binary(), "path": text})),
        "parts": pyarrow.list_(pyarrow.struct({"type": text, "text": text})),
    }
    described = {"text": _TEXT, "images": [_IMAGE], "parts": [{"type": _TEXT, "text": _TEXT}]}
    fields, info = [], {}
    for name, feature in features.items():
        if isinstance(feature, str):
            fields.append(pyarrow.field(name, types[feature]))
            info[name] = described[feature]
        else:
            inner = pyarrow.struct({key: types[kind] for key, kind in feature.items()})
            fields.append(pyarrow.field(name, pyarrow.list_(inner)))
            info[name] = [{key: described[kind] for key, kind in feature.items()}]
    metadata = json.dumps({"info": {"features": info}})
    return pyarrow.schema(fields, metadata={"huggingface": metadata})
