"""The rows of an opened pool of any file format, as the rest of the package reads them."""

import abc
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from xmas.data.images.paths import path_below
from xmas.data.indexes.index import Index as Index
from xmas.data.indexes.index import Shown as Shown
from xmas.data.turns import Turn, rounds_of
from xmas.store import sha256_of

if TYPE_CHECKING:
    from xmas.data.faults import Fault

MAX_PIXELS = 178_956_970  # what Pillow decodes by default, 0.5 GB in RGB


class PoolError(ValueError):
    """A pool's files are missing or malformed; the message names file, row, value and remedy."""


class Rows(abc.ABC):
    """An opened pool: conversations with images, known by their position in the pool.

    A pool format subclasses it with two methods, `__getitem__` and `turns`, and passes an `Index`
    to the constructor; one with images that are no files also defines `picture`. A record is
    read when it is asked for.

    Attributes:
        annotations: the annotation file, or the folder of a pool of several.
        images: the folder that image names are relative to.
        shown: which pictures every row shows.
        has_image: (rows,) bool.
        picture_names: the identity of every picture; rows with the same picture share one.
        max_pixels: of an image that is decoded; set by the pool.
        outside: whether images may be outside `images`; set by the pool.
        faults: malformed rows, of a pool that was opened with them: they count, without an image,
            and their content must not be asked for. Empty where opening refuses them.
    """

    max_pixels: int = MAX_PIXELS
    outside: bool = False
    faults: "Sequence[Fault]" = ()

    def __init__(self, annotations: Path, images: Path, index: Index) -> None:
        self.annotations = annotations
        self.images = images
        self.index = index
        self.shown = index.shown
        self.picture_names = index.names

    def __len__(self) -> int:
        return len(self.shown)

    @abc.abstractmethod
    def __getitem__(self, row: int) -> dict[str, Any]:
        """The record of `row`; its fields are those of the file's format."""

    @abc.abstractmethod
    def turns(self, row: int) -> list[Turn]:
        """The turns of `row`: a system turn or none, then user and assistant in turn. Their images
        are those of the row, in order.
        """

    def column(self, name: str) -> np.ndarray:
        """(rows,) a field of the records that has a number or a text: NaN or None where it is
        missing.

        Raises PoolError: no record has it, or one has something else there.
        """
        values = [self[row].get(name) for row in range(len(self))]
        if all(value is None for value in values):
            names = ", ".join(self[0]) if len(self) else "no rows"
            raise PoolError(f"{self.annotations}: no record has {name!r}; row 0 has {names}")
        for row, value in enumerate(values):
            if value is not None and not isinstance(value, bool | int | float | str):
                place = f"{self.annotations}: row {self.file_row(row)}"
                raise PoolError(
                    f"{place} has {name} {value!r:.80}, expected a number or a text; name a field "
                    "with one in every row"
                )
        if any(isinstance(value, str) for value in values):
            return np.array(values, dtype=object)
        if None in values:
            return np.array(values, dtype=np.float64)
        return np.array(values)

    def row_id(self, row: int) -> Any:
        """The id in the record of `row`; None if it has none."""
        return self[row].get("id")

    def file_row(self, row: int) -> int:
        """The number in `annotations` of a row, for messages: they differ in a part of a pool."""
        return row

    def identity(self) -> str:
        """The hash of the pool's content, by which results know it."""
        return sha256_of(str(self.annotations))

    def size(self) -> int:
        """Bytes of the pool's own files."""
        return self.annotations.stat().st_size

    def conversation(self, row: int) -> list[tuple[str, str]]:
        """(question, answer) of every round of `row`, in order, without an image placeholder."""
        return rounds_of(self.turns(row))

    @cached_property
    def has_image(self) -> Bool[np.ndarray, " rows"]:
        return self.shown.counts > 0

    @cached_property
    def sources(self) -> np.ndarray:
        """(rows,) str, the part of the mix that a row comes from."""
        return np.array(list(self.index.source_names), dtype=str)[self.index.source]

    def images_of(self, row: int) -> list[Path | bytes]:
        """The image files of `row`, or their bytes, in order. Raises ImageError: see `picture`."""
        return [self.picture(number) for number in self.shown[row].tolist()]

    def picture(self, number: int) -> Path | bytes:
        """The file of a picture, or its bytes; `number` is its position in `picture_names`.

        Raises ImageError: its name leads outside the image folder.
        """
        return self.file_named(self.picture_names[number])

    def in_file(self, number: int) -> bool:
        """Whether a picture is a file, whose name is a path, and not part of the pool's own."""
        return not self.index.stored[number]

    @cached_property
    def all_in_files(self) -> bool:
        """Whether every picture is a file."""
        return not self.index.stored.any()

    def file_named(self, name: str) -> Path:
        """The image file of this name. Raises ImageError: it is outside the image folder."""
        if self.outside:
            return self.images / name
        return path_below(
            self.images,
            name,
            remedy="move the file below it, or set pool.outside=true if you trust the annotations",
        )
