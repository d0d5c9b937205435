"""Pools of JSON records, a list or a record a line, under any names of their parts.

The file is streamed once; of every record only its byte range is kept in addition to the index, so
that a subset's records are copied byte for byte.
"""

import json
import os
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from xmas.data.faults import refusal
from xmas.data.indexes.stored_index import LARGE, StoredIndexes, state_of_file
from xmas.data.json_files.compressed import unpacked
from xmas.data.json_files.json_parts import Records
from xmas.data.records.dialogues import images_of, turns_of
from xmas.data.records.identity import decoded_uri, renamed
from xmas.data.rows import Index, PoolError, Rows
from xmas.data.turns import Turn
from xmas.store.stage import note_sha256

_SETTLED = 1.0  # seconds; a file may change again within the tick of its time of change


class JsonRows(Rows):
    """A pool of JSON records. A row's source is the record's `source`, else the first folder of its
    first image below the image folder, "images" for one without a folder, "text" for a row without
    an image. The identity of an image in base64 is the hash of its text.
    """

    def __init__(
        self,
        annotations: Path,
        images: Path,
        *,
        llava: bool = False,
        columns: Mapping[str, str] | None = None,
        chunk: int = 1 << 20,
        indexes: StoredIndexes | None = None,
        refuse: bool = True,
    ) -> None:
        """Index the file.

        Args:
            llava: records are in LLaVA's format, see `record_faults.fault_in`.
            columns: what records call their parts where it is not our name, e.g. images: photos.
            chunk: bytes of the file that are read at a time.
            indexes: where the index is kept; None: it is made each time.
            refuse: raise for malformed rows; False: leave them in `faults`.

        Raises:
            PoolError: see `json_list.elements` and `unpacked`.
            FaultyRowsError: a PoolError with all malformed rows.
        """
        self.columns = dict(columns or {})
        records = Records(annotations, images, llava, self.columns, chunk)
        with unpacked(annotations) as file:
            super().__init__(annotations, images, _index(records, file, indexes))
            self._file = os.dup(file.fileno())  # a map's pages would count as memory
        weakref.finalize(self, os.close, self._file)
        self.faults = self.index.faults
        if self.faults and refuse:
            raise refusal(annotations, len(self), self.faults)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return json.loads(self.raw(row))

    def raw(self, row: int) -> bytes:
        """The record of `row`, byte for byte as in the annotation file."""
        assert self.index.spans is not None
        start, stop = self.index.spans[row].tolist()
        return os.pread(self._file, stop - start, start)

    def turns(self, row: int) -> list[Turn]:
        return turns_of(renamed(self[row], self.columns))

    def picture(self, number: int) -> Path | bytes:
        if self.in_file(number):
            return self.file_named(self.picture_names[number])
        image = int(self.shown.first_image[number])
        row = int(self.shown.row_of_image[image])
        record = renamed(self[row], self.columns)
        return decoded_uri(images_of(record)[image - int(self.shown.offsets[row])])


def _index(records: Records, file: BinaryIO, indexes: StoredIndexes | None) -> Index:
    """The index of an annotation file, whose unpacked content is `file`."""
    path = records.annotations
    status = path.stat()
    is_plain = os.path.samestat(os.fstat(file.fileno()), status)

    def make() -> Index:
        if not is_plain or status.st_size < LARGE:
            return records.index(file)
        index = records.index_in_ranges(status.st_size)
        if state_of_file(path.stat()) != state_of_file(status):
            raise PoolError(f"{path}: changed while it was read; open it when it is complete")
        return index

    if indexes is None or time.time() - status.st_ctime < _SETTLED:
        return make()
    index = indexes.get(state_of_file(status) | records.described(), make)
    if index.sha256 is not None:
        note_sha256(path, status, index.sha256)
    return index
