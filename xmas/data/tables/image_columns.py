"""The image columns of a table without the images: a mark in place of bytes, which are not read."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xmas.data.records.identity import name_of
from xmas.data.tables.table import Chunk

NAMES = ("images", "image")


def marked_images(chunks: Sequence[Chunk], columns: Sequence[str]) -> dict[str, Any]:
    """Some image columns of consecutive rows, each an Arrow array.

    An image in the shards is {bytes: True, path}, in any type that it has there.
    """
    if not columns:
        return {}
    leaves = [leaf for leaf in chunks[0].leaves if leaf.split(".")[0] in columns]
    light = [leaf for leaf in leaves if not leaf.endswith(".bytes")]
    if len({leaf.split(".")[0] for leaf in light}) < len(columns):
        light = leaves
    stored = [chunk.stored for chunk in chunks]
    total = None if None in stored else sum(number for number in stored if number)
    arrays = columns_of(chunks, light)
    if total is None or 0 < total < sum(map(_count, arrays.values())):
        arrays = columns_of(chunks, leaves)  # some in the shards, some in files
    return {name: _marked(array, bool(total)) for name, array in arrays.items()}


def columns_of(chunks: Sequence[Chunk], columns: Sequence[str]) -> dict[str, Any]:
    """Some columns of consecutive rows, each an Arrow array."""
    import pyarrow

    table = pyarrow.concat_tables([chunk.read(columns) for chunk in chunks])
    return {name: table.column(name).combine_chunks() for name in table.column_names}


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
        marks = pyarrow.array(np.full(len(array), stored))
        if "bytes" in names:
            marks = array.field("bytes").is_valid()
        paths = array.field("path") if "path" in names else pyarrow.nulls(len(array))
        pairs = [marks, paths.cast(pyarrow.string())]
        return pyarrow.StructArray.from_arrays(pairs, ["bytes", "path"], mask=array.is_null())
    if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
        pairs = [array.is_valid(), pyarrow.nulls(len(array), pyarrow.string())]
        return pyarrow.StructArray.from_arrays(pairs, ["bytes", "path"], mask=array.is_null())
    return array


def listed(record: Mapping[str, Any]) -> list[Any]:
    """The images of a record."""
    images = record.get("images") or record.get("image") or []
    return images if isinstance(images, list) else [images]


def name_in_table(image: Any, row: int, place: int) -> str:
    """The identity of an image: its row and place, if it is in the shards, else its path."""
    if isinstance(image, Mapping) and image["bytes"]:
        return f"{row}:{place}"
    return name_of(image)


def is_place(name: str) -> bool:
    """Whether a picture is known by row and place: its bytes are in the shards."""
    row, colon, place = name.partition(":")
    return bool(colon) and row.isdigit() and place.isdigit()
