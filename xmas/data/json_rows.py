"""Pools of JSON records, a list or a record a line, under any names of their parts.

The file is streamed once; of every record only its byte range is kept in addition to the index, so
that a subset's records are copied byte for byte.
"""

import base64
import binascii
import hashlib
import json
import os
import weakref
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from xmas.data.compressed import unpacked
from xmas.data.dialogues import images_of, turns_of
from xmas.data.faults import Fault, id_of, refusal
from xmas.data.image_paths import ImageError
from xmas.data.index import Part
from xmas.data.json_list import elements
from xmas.data.plain_records import plain_images
from xmas.data.record_faults import fault_in, half_character
from xmas.data.rows import Index, Rows
from xmas.data.turns import Turn

TEXT, NO_FOLDER = "text", "images"  # sources of rows without an image, or without a folder of it
DATA = "data:"  # begins an image that is in the record itself, in base64
SOURCES = ("source", "data_source")  # of LLaVA's records and of LLaVA-OneVision's


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
        chunk: int = 1 << 22,
        refuse: bool = True,
    ) -> None:
        """Index the file.

        Args:
            llava: records are in LLaVA's format, see `record_faults.fault_in`.
            columns: what records call their parts where it is not our name, e.g. images: photos.
            chunk: bytes of the file that are read at a time.
            refuse: raise for malformed rows; False: leave them in `faults`.

        Raises:
            PoolError: see `json_list.elements` and `unpacked`.
            FaultyRowsError: a PoolError with all malformed rows.
        """
        self.columns = dict(columns or {})
        spans = array("q")
        faults: list[Fault] = []

        def index() -> Iterator[tuple[list[str], str]]:
            for row, (start, stop, record) in enumerate(elements(annotations, file, chunk=chunk)):
                spans.extend((start, stop))
                record = renamed(record, self.columns)
                if (names := plain_images(record, llava=llava)) is not None:
                    yield names, source_of(record, names, images, llava=llava)
                elif (fault := fault_in(record, llava=llava)) is None:
                    names = [name_of(image) for image in images_of(record)]
                    yield names, source_of(record, names, images, llava=llava)
                else:
                    faults.append(_fault(row, record, *fault))
                    yield [], TEXT

        with unpacked(annotations) as file:
            part = Part.of(index(), lambda name: name.startswith(DATA))
            super().__init__(annotations, images, Index.merged([part]))
            self._file = os.dup(file.fileno())  # a map's pages would count as memory
        weakref.finalize(self, os.close, self._file)
        self.faults = faults
        if faults and refuse:
            raise refusal(annotations, len(self), faults)
        self._spans: Int[np.ndarray, "rows 2"] = np.array(spans, dtype=np.int64).reshape(-1, 2)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return json.loads(self.raw(row))

    def raw(self, row: int) -> bytes:
        """The record of `row`, byte for byte as in the annotation file."""
        start, stop = self._spans[row].tolist()
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


def renamed(record: Any, columns: Mapping[str, str]) -> Any:
    """A record under our names, `columns` having those of the file."""
    if not columns or not isinstance(record, dict):
        return record
    theirs = {name: record[column] for name, column in columns.items() if column in record}
    return {key: value for key, value in record.items() if key not in columns.values()} | theirs


def name_of(image: Any) -> str:
    """The identity of an image without fault: its path, or the hash of its bytes as text."""
    if isinstance(image, Mapping):
        image = image["path"]
    if not image.startswith(DATA):
        return image
    return DATA + hashlib.sha256(image.encode()).hexdigest()


def decoded_uri(uri: str) -> bytes:
    """The bytes of an image in a data URI. Raises ImageError: they are not in base64."""
    kind, _, content = uri.partition(",")
    try:
        if not kind.endswith(";base64"):
            raise binascii.Error("no base64")
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise ImageError(
            f"{uri[:32]}...", "image damaged", f"is a data URI that cannot be decoded ({error})"
        ) from error


def source_of(record: dict[str, Any], names: list[str], images: Path, *, llava: bool) -> str:
    """The source of a row: see `JsonRows`. Paths are compared without `.` and `..`, and an
    absolute one below the image folder is taken from there.
    """
    for key in SOURCES[:1] if llava else SOURCES:
        name = record.get(key)
        if isinstance(name, str) and half_character(name) is None:
            return name
    if not names:
        return TEXT
    path = names[0]
    if path.startswith(DATA):
        return NO_FOLDER
    if "//" in path or "./" in path or path.startswith("/"):  # rare, and slower
        path = os.path.normpath(path)
        if os.path.isabs(path):
            path = os.path.relpath(path, os.path.abspath(images))
    folders = [part for part in path.split("/")[:-1] if part != ".."]
    return folders[0] if folders else NO_FOLDER


def _fault(row: int, record: Any, kind: str, reason: str) -> Fault:
    fields = record if isinstance(record, dict) else {}
    image = fields.get("image") or fields.get("images")
    first = image[0] if isinstance(image, list) and image else image
    return Fault(
        row, id_of(fields.get("id")), first if isinstance(first, str) else None, kind, reason
    )
