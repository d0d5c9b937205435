"""Pools of Hugging Face datasets: the rows of an Arrow or Parquet table, memory-mapped.

Images are in the shards, or files that the shards name. Every column but the images' is read once
when the pool is opened, group after group; images when they are asked for.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from xmas.data.dialogues import turns_of
from xmas.data.faults import Fault, id_of, refusal
from xmas.data.json_rows import DATA, NO_FOLDER, TEXT, decoded_uri, name_of, renamed, source_of
from xmas.data.record_faults import fault_in
from xmas.data.rows import Index, PoolError, Rows
from xmas.data.table import Chunk, Table
from xmas.data.turns import Turn

_IMAGES = ("images", "image")
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
        refuse: bool = True,
    ) -> None:
        """Index the table.

        Args:
            columns: what the table calls its columns where it is not our name.
            split: of the dataset that `table` is.
            refuse: raise for malformed rows; False: leave them in `faults`.

        Raises FaultyRowsError: a PoolError with all malformed rows.
        """
        self.table = table
        self.images, self.split = images, split
        self.columns = dict(columns or {})
        names = table.chunks[0].columns if table.chunks else []
        theirs = [self.columns.get(name, name) for name in _IMAGES]
        self.columns_of_file = names
        self._image_columns = [name for name in names if name in theirs]
        self._other_columns = [name for name in names if name not in theirs]
        faults: list[Fault] = []
        super().__init__(annotations, images, Index.of(self._index(faults)))
        self._in_file = np.array(
            [not (name.startswith(DATA) or _is_place(name)) for name in self.picture_names], bool
        )
        self.faults = faults
        if faults and refuse:
            raise refusal(annotations, len(self), faults)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.table.record(row, self.columns_of_file)

    def column(self, name: str) -> np.ndarray:
        try:
            return self.table.column(name)
        except PoolError as error:
            raise PoolError(f"{self.annotations}: {error}") from error

    def turns(self, row: int) -> list[Turn]:
        record = self._ours(self.table.record(row, self._other_columns))
        return turns_of(record | {"images": [_STORED] * int(self.shown.counts[row])})

    def picture(self, number: int) -> Path | bytes:
        name = self.picture_names[number]
        if self._in_file[number]:
            return self.file_named(name)
        image = int(self.shown.first_image[number])
        row = int(self.shown.row_of_image[image])
        record = self.table.record(row, self._image_columns)
        value = _listed(renamed(record, self.columns))[image - int(self.shown.offsets[row])]
        if isinstance(value, str):
            return decoded_uri(value)
        return value if isinstance(value, bytes) else value["bytes"]

    def in_file(self, number: int) -> bool:
        return bool(self._in_file[number])

    @cached_property
    def all_in_files(self) -> bool:
        return bool(self._in_file.all())

    def identity(self) -> str:
        return self.table.identity()

    def size(self) -> int:
        return self.table.size()

    def _index(self, faults: list[Fault]) -> Iterator[tuple[list[str], str]]:
        row = 0
        for chunk in self.table.chunks:
            others = chunk.read(self._other_columns).to_pylist()
            marked = _marked_images(chunk, self._image_columns)
            for record, images in zip(others, marked, strict=True):
                record = self._ours(record | images)
                if (fault := fault_in(record)) is None:
                    names = [_name(image, row, at) for at, image in enumerate(_listed(record))]
                    yield names, self._source(record, names, chunk)
                else:
                    faults.append(Fault(row, id_of(record.get("id")), None, *fault))
                    yield [], TEXT
                row += 1

    def _ours(self, record: dict[str, Any]) -> dict[str, Any]:
        """A record under our names, with lists of turns where `datasets` has one of columns."""
        return {name: _by_turn(value) for name, value in renamed(record, self.columns).items()}

    def _source(self, record: dict[str, Any], names: list[str], chunk: Chunk) -> str:
        files = [name for name in names if not _is_place(name)]
        source = source_of(record, files, self.images, llava=False)
        if source == TEXT and names:
            source = NO_FOLDER
        return chunk.origin if source in (TEXT, NO_FOLDER) and chunk.origin else source


def _marked_images(chunk: Chunk, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The image columns of every row of a chunk, with a mark in place of bytes, not read."""
    import pyarrow

    if not columns:
        return iter([{}] * chunk.rows)
    leaves = [leaf for leaf in chunk.leaves if leaf.split(".")[0] in columns]
    light = [leaf for leaf in leaves if not leaf.endswith(".bytes")]
    if len({leaf.split(".")[0] for leaf in light}) < len(columns):
        light = leaves
    arrays = _arrays(chunk.read(light), columns)
    if chunk.stored is None or 0 < chunk.stored < sum(map(_count, arrays)):
        arrays = _arrays(chunk.read(leaves), columns)  # some in the shards, some in files
    marked = [_marked(array, bool(chunk.stored)) for array in arrays]
    return iter(pyarrow.table(marked, names=columns).to_pylist())


def _arrays(table: Any, columns: list[str]) -> list[Any]:
    return [table.column(name).combine_chunks() for name in columns]


def _count(array: Any) -> int:
    """The number of images of a column."""
    flat = array.flatten() if hasattr(array, "offsets") else array
    return len(flat) - flat.null_count


def _marked(array: Any, stored: bool) -> Any:
    """Images with a mark in place of their bytes.

    Args:
        array: of lists of images, of images as {bytes, path}, as paths, or as bytes.
        stored: whether there are bytes where `array` was read without them.
    """
    import pyarrow

    kind = array.type
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return type(array).from_arrays(array.offsets, _marked(array.values, stored))
    if pyarrow.types.is_struct(kind):
        names = [field.name for field in kind]
        marks = pyarrow.array([stored] * len(array), pyarrow.bool_())
        if "bytes" in names:
            marks = array.field("bytes").is_valid()
        paths = array.field("path") if "path" in names else pyarrow.nulls(len(array))
        pairs = [marks, paths.cast(pyarrow.string())]
        return pyarrow.StructArray.from_arrays(pairs, ["bytes", "path"], mask=array.is_null())
    if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
        pairs = [array.is_valid(), pyarrow.nulls(len(array), pyarrow.string())]
        return pyarrow.StructArray.from_arrays(pairs, ["bytes", "path"], mask=array.is_null())
    return array


def _listed(record: Mapping[str, Any]) -> list[Any]:
    images = record.get("images") or record.get("image")
    if images is None:
        return []
    return images if isinstance(images, list) else [images]


def _name(image: Any, row: int, place: int) -> str:
    if isinstance(image, Mapping) and image["bytes"]:
        return f"{row}:{place}"
    return name_of(image)


def _is_place(name: str) -> bool:
    """Whether a picture is known by row and place: its bytes are in the shards."""
    row, colon, place = name.partition(":")
    return bool(colon) and row.isdigit() and place.isdigit()


def _by_turn(value: Any) -> Any:
    """A list of objects, of an object of lists as `datasets` has them."""
    if isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
        return [dict(zip(value, turn, strict=True)) for turn in zip(*value.values(), strict=True)]
    return value
