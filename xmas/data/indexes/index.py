"""The index of a pool: which pictures its rows show and which part of the mix they come from."""

import dataclasses
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int

from xmas.data.indexes.names import Names, offsets_of

if TYPE_CHECKING:
    from xmas.data.faults import Fault


@dataclasses.dataclass(frozen=True)
class Shown:
    """Which pictures the rows of a pool show: row r shows `pictures[offsets[r]:offsets[r + 1]]`, in
    the order of its text. A picture is known by its number; rows that show the same have the same.
    """

    offsets: Int[np.ndarray, " rows_1"]
    pictures: Int[np.ndarray, " images"]

    @classmethod
    def single(cls, picture: Int[np.ndarray, " rows"]) -> "Shown":
        """At most one picture a row; -1: none."""
        return cls(np.concatenate([[0], np.cumsum(picture >= 0)]), picture[picture >= 0])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Int[np.ndarray, " images"]:
        return self.pictures[self.offsets[row] : self.offsets[row + 1]]

    @cached_property
    def counts(self) -> Int[np.ndarray, " rows"]:
        """The number of images of every row."""
        return np.diff(self.offsets)

    @cached_property
    def first(self) -> Int[np.ndarray, " rows"]:
        """The picture that every row shows first; -1 without one."""
        first = np.full(len(self), -1, dtype=np.int64)
        first[self.counts > 0] = self.pictures[self.offsets[:-1][self.counts > 0]]
        return first

    @cached_property
    def row_of_image(self) -> Int[np.ndarray, " images"]:
        """The row of every entry of `pictures`."""
        return np.repeat(np.arange(len(self)), self.counts)

    @cached_property
    def first_image(self) -> Int[np.ndarray, " distinct"]:
        """For every picture the first position in `pictures` that has it."""
        first = np.empty(int(self.pictures.max(initial=-1)) + 1, dtype=np.int64)
        backwards = np.arange(len(self.pictures))[::-1]
        first[self.pictures[::-1]] = backwards  # of equal ones the one that is assigned last
        return first

    def rows_with(self, marked: Bool[np.ndarray, " distinct"]) -> Bool[np.ndarray, " rows"]:
        """Whether a row shows one of the marked pictures."""
        rows = self.row_of_image[marked[self.pictures]]
        return np.bincount(rows, minlength=len(self)).astype(bool)

    def combined(self, of_picture: Int[np.ndarray, " distinct"]) -> Int[np.ndarray, " rows"]:
        """One number for what all pictures of a row are, in order: equal for equal ones, -1 without
        any. `of_picture` has the number of each; a row of one picture has that of its picture.
        """
        of_rows = np.append(of_picture, -1)[self.first]
        numbers: dict[bytes, int] = {}
        above = int(of_picture.max(initial=-1)) + 1
        for row in np.flatnonzero(self.counts > 1).tolist():
            name = of_picture[self[row]].tobytes()
            of_rows[row] = numbers.setdefault(name, above + len(numbers))
        return of_rows


@dataclasses.dataclass(frozen=True)
class Index:
    """What is known of all rows without reading them; any of it may be memory-mapped.

    Attributes:
        shown: the pictures of every row.
        names: the identity of every picture, by its number: a path as the pool has it, or another
            name that stays the same. Each is different.
        stored: whether a picture is in the pool's own files; others are files, named by a path.
        source: (rows,) the number of a row's source in `source_names`.
        spans: of rows of a file, the first byte of each and that after its last.
        faults: malformed rows.
        sha256: of the file, where it was hashed in the same pass.
    """

    shown: Shown
    names: Names
    stored: Bool[np.ndarray, " distinct"]
    source: Int[np.ndarray, " rows"]
    source_names: Sequence[str]
    spans: Int[np.ndarray, "rows 2"] | None = None
    faults: "Sequence[Fault]" = ()
    sha256: str | None = None

    @classmethod
    def of(
        cls,
        rows: Iterable[tuple[Sequence[str], str]],
        is_stored: Callable[[str], bool] = lambda name: False,
    ) -> "Index":
        """Index (names of images, source) of every row in one pass; pictures are in the order of
        their names.

        Args:
            is_stored: whether the picture of a name is in the pool's own files.
        """
        return cls.merged([Part.of(rows, is_stored)])

    @classmethod
    def merged(cls, parts: Sequence["Part"]) -> "Index":
        """Number the pictures and sources of consecutive rows."""
        names, pictures = Names.of_all([part.names for part in parts]).distinct()
        number_of_source: dict[str, int] = {}
        source = np.zeros(sum(len(part.counts) for part in parts), dtype=np.int64)
        start = 0
        for part in parts:
            numbers = [
                number_of_source.setdefault(name, len(number_of_source))
                for name in part.source_names
            ]
            stop = start + len(part.counts)
            source[start:stop] = np.array(numbers, dtype=np.int64)[part.source]
            start = stop
        counts = [np.zeros(0, dtype=np.int64), *(part.counts for part in parts)]
        stored = np.zeros(len(names), dtype=bool)
        stored[pictures] = np.concatenate([np.zeros(0, bool), *(part.stored for part in parts)])
        shown = Shown(offsets_of(np.concatenate(counts)), pictures)
        spans = [part.spans for part in parts if part.spans is not None]
        return cls(
            shown,
            names,
            stored,
            source,
            list(number_of_source),
            np.concatenate(spans) if spans else None,
            [fault for part in parts for fault in part.faults],
        )


@dataclasses.dataclass(frozen=True)
class Part:
    """What an index has of consecutive rows, before the pictures of all rows are numbered.

    Attributes:
        counts: the number of images of every row.
        names: the identity of every image, row after row.
        stored: whether an image is in the pool's own files.
        source: the number of a row's source in `source_names`, which are in the order of the rows.
        spans: of rows of a file, the first byte of each and that after its last.
        faults: malformed rows.
    """

    counts: Int[np.ndarray, " rows"]
    names: Names
    stored: Bool[np.ndarray, " images"]
    source: Int[np.ndarray, " rows"]
    source_names: Sequence[str]
    spans: Int[np.ndarray, "rows 2"] | None = None
    faults: "Sequence[Fault]" = ()

    @classmethod
    def of(
        cls,
        rows: Iterable[tuple[Sequence[str], str]],
        is_stored: Callable[[str], bool] = lambda name: False,
    ) -> "Part":
        """The part of (names of images, source) of every row.

        Args:
            is_stored: see `Index.of`.
        """
        counts, sources = array("q"), array("q")
        images: list[str] = []
        number_of_source: dict[str, int] = {}
        for names, source in rows:
            counts.append(len(names))
            images += names
            sources.append(number_of_source.setdefault(source, len(number_of_source)))
        return cls(
            np.array(counts, dtype=np.int64),
            Names.of(images),
            np.array([is_stored(name) for name in images], dtype=bool),
            np.array(sources, dtype=np.int64),
            list(number_of_source),
        )
