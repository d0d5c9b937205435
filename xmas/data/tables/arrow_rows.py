"""Pools of Hugging Face datasets: the rows of an Arrow or Parquet table, memory-mapped.

Images are in the shards, or files that the shards name. Every column but the images' is read once
when the pool is opened, group after group; images when they are asked for.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xmas.data.faults import refusal
from xmas.data.indexes.stored_index import StoredIndexes
from xmas.data.records.dialogues import turns_of
from xmas.data.records.identity import decoded_uri, renamed
from xmas.data.rows import Index, PoolError, Rows
from xmas.data.tables.image_columns import NAMES, listed
from xmas.data.tables.shards import state_of
from xmas.data.tables.table import Table
from xmas.data.tables.table_parts import by_turn, index_of
from xmas.data.turns import Turn

_AHEAD = 512  # rows without their images that become Python objects together
_STORED = b"."  # in place of an image whose content does not matter


class ArrowRows(Rows):
    """A pool of a table. An image in the shards is known by its row and place, `17:0`; one that is
    a file by its path. A row's source is its `source` or `data_source`, else the folder of its
    shard, else that of its first image's path.
    """

    def __init__(
        self,
        annotations: Path,
        images: Path,
        table: Table,
        *,
        columns: Mapping[str, str] | None = None,
        split: str | None = None,
        indexes: StoredIndexes | None = None,
        refuse: bool = True,
    ) -> None:
        """Index the table.

        Args:
            columns: what the table calls its columns where it is not our name.
            split: of the dataset that `table` is.
            indexes: where the index is kept; None: it is made each time.
            refuse: raise for malformed rows; False: leave them in `faults`.

        Raises FaultyRowsError: a PoolError with all malformed rows.
        """
        self.table = table
        self.images, self.split = images, split
        self.columns = dict(columns or {})
        names = table.chunks[0].columns if table.chunks else []
        theirs = [self.columns.get(name, name) for name in NAMES]
        self.columns_of_file = names
        self._image_columns = [name for name in names if name in theirs]
        self._other_columns = [name for name in names if name not in theirs]
        super().__init__(annotations, images, self._index(indexes))
        self.faults = self.index.faults
        if self.faults and refuse:
            raise refusal(annotations, len(self), self.faults)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.table.record(row, self.columns_of_file)

    def column(self, name: str) -> np.ndarray:
        try:
            return self.table.column(name)
        except PoolError as error:
            raise PoolError(f"{self.annotations}: {error}") from error

    def turns(self, row: int) -> list[Turn]:
        record = by_turn(renamed(self._texts(row), self.columns))
        return turns_of(record | {"images": [_STORED] * int(self.shown.counts[row])})

    def row_id(self, row: int) -> Any:
        return renamed(self._texts(row), self.columns).get("id")

    def _texts(self, row: int) -> dict[str, Any]:
        """The record without its images."""
        return self.table.record(row, self._other_columns, ahead=_AHEAD)

    def picture(self, number: int) -> Path | bytes:
        if self.in_file(number):
            return self.file_named(self.picture_names[number])
        image = int(self.shown.first_image[number])
        row = int(self.shown.row_of_image[image])
        record = self.table.record(row, self._image_columns)
        value = listed(renamed(record, self.columns))[image - int(self.shown.offsets[row])]
        if isinstance(value, str):
            return decoded_uri(value)
        return value if isinstance(value, bytes) else value["bytes"]

    def identity(self) -> str:
        return self.table.identity()

    def size(self) -> int:
        return self.table.size()

    def _index(self, indexes: StoredIndexes | None) -> Index:
        def make() -> Index:
            return index_of(self.table, self._image_columns, self.columns, self.images)

        if indexes is None or self.table.shards is None:
            return make()
        size, modified = state_of(*self.table.shards)
        state = {"shards": self.identity(), "size": size, "modified": modified}
        images = os.path.abspath(self.images)
        return indexes.get(state | {"columns": self.columns, "images": images}, make)
