"""The rows of an opened pool of any file format, as the rest of the package reads them."""

import abc
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int

from xmas.data.image_paths import path_below

if TYPE_CHECKING:
    from xmas.data.faults import Fault

MAX_PIXELS = 178_956_970  # what Pillow decodes by default, 0.5 GB in RGB


class PoolError(ValueError):
    """A pool's files are missing or malformed; the message names file, row, value and remedy."""


class Rows(abc.ABC):
    """An opened pool: image-text conversations, known by their position in the annotation file.

    A pool format subclasses it with three methods, `__getitem__`, `conversation` and `image_round`,
    and passes the image and source of every row, in order, to the constructor. Only this index is
    in memory, 24 bytes a row and every distinct name once, so a pool of 665k rows opens on a
    laptop; a record is read from the file when it is asked for.

    Attributes:
        annotations: the annotation file.
        images: the folder that image names are relative to.
        has_image: (rows,) bool.
        picture: (rows,) int64, the position of a row's image in `picture_names`; -1 without one.
        picture_names: every distinct image name, sorted; rows with the same image share one.
        sources: (rows,) str, the part of the mix that a row comes from.
        max_pixels: of an image that is decoded; set by the pool.
        outside: whether images may be outside `images`; set by the pool.
        faults: malformed rows, of a pool that was opened with them: they count, without an image,
            and their content must not be asked for. Empty where opening refuses them.
    """

    max_pixels: int = MAX_PIXELS
    outside: bool = False
    faults: "Sequence[Fault]" = ()

    def __init__(
        self, annotations: Path, images: Path, index: Iterable[tuple[str | None, str]]
    ) -> None:
        """Index the rows of a pool in one pass.

        Args:
            index: (image name, None without one; source) of every row, consumed once.
        """
        self.annotations = annotations
        self.images = images
        image_numbers, source_numbers = array("q"), array("q")
        number_of_image: dict[str, int] = {}
        number_of_source: dict[str, int] = {}
        for image, source in index:
            image_numbers.append(
                -1 if image is None else number_of_image.setdefault(image, len(number_of_image))
            )
            source_numbers.append(number_of_source.setdefault(source, len(number_of_source)))
        self.picture_names: list[str] = sorted(number_of_image)
        sorted_place = np.zeros(len(number_of_image), dtype=np.int64)
        sorted_place[[number_of_image[name] for name in self.picture_names]] = np.arange(
            len(number_of_image)
        )
        self.picture: Int[np.ndarray, " rows"] = np.array(image_numbers, dtype=np.int64)
        self.has_image: Bool[np.ndarray, " rows"] = self.picture >= 0
        self.picture[self.has_image] = sorted_place[self.picture[self.has_image]]
        names = np.array(list(number_of_source), dtype=str)
        self.sources: np.ndarray = names[np.array(source_numbers, dtype=int)]

    def __len__(self) -> int:
        return len(self.picture)

    @abc.abstractmethod
    def __getitem__(self, row: int) -> dict[str, Any]:
        """The record of `row`, parsed; its fields are those of the file's format."""

    @abc.abstractmethod
    def conversation(self, row: int) -> list[tuple[str, str]]:
        """(question, answer) of every round of `row`, in order, without an image placeholder."""

    @abc.abstractmethod
    def image_round(self, row: int) -> int:
        """The number of the round in `conversation` that has the image; 0 if unknown."""

    def image_in_answer(self, row: int) -> bool:
        """Whether the image is in the answer of `image_round`, not in its question."""
        return False

    def image_path(self, row: int) -> Path:
        """The image file of `row`.

        Raises:
            PoolError: the row has no image.
            ImageError: see `picture_path`.
        """
        if not self.has_image[row]:
            raise PoolError(f"{self.annotations}: row {row} has no image; check `has_image` first")
        return self.picture_path(int(self.picture[row]))

    def picture_path(self, picture: int) -> Path:
        """The file of an image, by its position in `picture_names`.

        Raises ImageError: its name leads outside the image folder.
        """
        name = self.picture_names[picture]
        if self.outside:
            return self.images / name
        return path_below(
            self.images,
            name,
            remedy="move the file below it, or set pool.outside=true if you trust the annotations",
        )
