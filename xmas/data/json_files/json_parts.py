"""The index of a file of JSON records, over several processes where it is large.

Each process takes a range of bytes. Where a record begins in it is a guess, by the bytes that are
between the file's first two records and open the second. It is checked: the range before it must
end where the guess begins, as records follow each other; else the range is read again from there.
"""

import dataclasses
import itertools
import mmap
import os
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xmas.data.faults import Fault, id_of
from xmas.data.indexes.index import Index, Part
from xmas.data.indexes.side_processes import side_by_side
from xmas.data.json_files.json_list import Element, elements, elements_from
from xmas.data.records.dialogues import images_of
from xmas.data.records.identity import DATA, TEXT, name_of, renamed, source_of
from xmas.data.records.plain import plain_images
from xmas.data.records.record_faults import fault_in
from xmas.data.rows import PoolError
from xmas.store import sha256_of

_RANGE = 32 << 20  # bytes of a file that a process reads at a time
_HEAD = 1 << 16  # bytes that are read at a time to find the first two records
_OPENING = re.compile(rb'\{\s*"(?:[^"\\]|\\.)*"')  # of a record, up to its first key


@dataclasses.dataclass(frozen=True)
class Records:
    """A file of JSON records and how they are read.

    Args:
        llava: records are in LLaVA's format, see `record_faults.fault_in`.
        columns: what records call their parts where it is not our name.
        chunk: bytes of the file that are read at a time.
    """

    annotations: Path
    images: Path
    llava: bool
    columns: Mapping[str, str]
    chunk: int = 1 << 20

    def described(self) -> dict[str, Any]:
        """What the index depends on besides the content of the file, as plain data."""
        places = {"path": self.annotations, "images": self.images}
        absolute = {name: os.path.abspath(path) for name, path in places.items()}
        return {"records": "json", "llava": self.llava, "columns": dict(self.columns)} | absolute

    def index(self, file: BinaryIO) -> Index:
        """The index of all records, in one pass over the unpacked content."""
        return Index.merged([self.part(elements(self.annotations, file, chunk=self.chunk))])

    def index_in_ranges(self, size: int) -> Index:
        """The index and sha256 of an uncompressed file of `size` bytes, by several processes."""
        limits = Limits.of(self.annotations)
        if limits is None:
            with self.annotations.open("rb") as file:
                return self.index(file)
        starts = range(limits.first, size, _RANGE)
        ranges = [Range(self, limits, start, min(start + _RANGE, size)) for start in starts]
        with ThreadPoolExecutor(1) as thread:
            digest = thread.submit(sha256_of, self.annotations)
            parts = list(_joined(ranges, side_by_side(ranges)))
        return dataclasses.replace(Index.merged(parts), sha256=digest.result())

    def part(self, records: Iterator[Element], first_row: int = 0) -> Part:
        """The index of consecutive records."""
        spans = array("q")
        faults: list[Fault] = []
        part = Part.of(self._rows(records, first_row, spans, faults), _is_stored)
        spans_of = np.array(spans, dtype=np.int64).reshape(-1, 2)
        return dataclasses.replace(part, spans=spans_of, faults=faults)

    def _rows(
        self, records: Iterator[Element], first_row: int, spans: array, faults: list[Fault]
    ) -> Iterator[tuple[list[str], str]]:
        for row, (start, stop, record) in enumerate(records, first_row):
            spans.extend((start, stop))
            record = renamed(record, self.columns)
            if (names := plain_images(record, llava=self.llava)) is not None:
                yield names, source_of(record, names, self.images, llava=self.llava)
            elif (fault := fault_in(record, llava=self.llava)) is None:
                names = [name_of(image) for image in images_of(record)]
                yield names, source_of(record, names, self.images, llava=self.llava)
            else:
                faults.append(_fault(row, record, *fault))
                yield [], TEXT


@dataclasses.dataclass(frozen=True)
class Limits:
    """How records follow each other in a file.

    Args:
        first: the first byte of the first record.
        is_list: whether they are elements of a list, or JSON lines.
        between: the last byte of a record, what follows it, and how the next one opens.
        opening: where in `between` the next one begins.
    """

    first: int
    is_list: bool
    between: bytes
    opening: int

    @classmethod
    def of(cls, path: Path) -> "Limits | None":
        """By a file's first two records; None: they do not tell, or there are none."""
        with path.open("rb") as file:
            records = elements(path, file, chunk=_HEAD)
            try:
                (first, stop, _), (start, _, _) = itertools.islice(records, 2)
            except ValueError:  # a PoolError too: a pass over the whole file says what is wrong
                return None
            file.seek(stop - 1)
            between = file.read(start - stop + 1 + _HEAD)
            file.seek(0)
            head = file.read(first)
        opening = _OPENING.match(between, start - stop + 1)
        if opening is None:
            return None
        return cls(first, b"[" in head, between[: opening.end()], start - stop + 1)


@dataclasses.dataclass(frozen=True)
class RangePart:
    """The records of a range: `first` and `next` are the first bytes of its first one and of that
    after its last, None at the end of the file.
    """

    part: Part
    first: int
    next: int | None


@dataclasses.dataclass(frozen=True)
class Range:
    """The records of a file that begin from byte `start` to before `stop`; a job of a process.

    Args:
        row: the number of the first, where it is known that one begins at `start`; else None.
    """

    records: Records
    limits: Limits
    start: int
    stop: int
    row: int | None = None

    def __call__(self) -> RangePart | None:
        """The part of its records by a guess where the first begins; None: it cannot be right."""
        with self.records.annotations.open("rb") as file:
            start = self._guess(file)
        if start is None:
            return None
        try:
            return dataclasses.replace(self, start=start, row=0).read()
        except (
            PoolError
        ):  # read again from where the range before it ends, which says what is wrong
            return None

    def read(self) -> RangePart:
        """The part of its records, the first of which begins at `start`.

        Raises PoolError: see `json_list.elements`.
        """
        assert self.row is not None
        following: list[int] = []
        with self.records.annotations.open("rb") as file:
            records = elements_from(
                *(self.records.annotations, file, self.start),
                row=self.row,
                is_list=self.limits.is_list,
                chunk=self.records.chunk,
            )
            part = self.records.part(self._of_range(records, following), self.row)
        return RangePart(part, self.start, following[0] if following else None)

    def _of_range(self, records: Iterator[Element], following: list[int]) -> Iterator[Element]:
        for record in records:
            if record[0] >= self.stop:
                following.append(record[0])
                return
            yield record

    def _guess(self, file: BinaryIO) -> int | None:
        if self.start == self.limits.first:
            return self.start
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            at = content.find(self.limits.between, self.start - self.limits.opening)
        start = at + self.limits.opening
        return start if at >= 0 and start < self.stop else None


def _joined(ranges: Sequence[Range], parts: Sequence[RangePart | None]) -> Iterator[Part]:
    """The parts of consecutive ranges; those whose guess was wrong are read again."""
    start: int | None = ranges[0].start
    row = 0
    for of_range, guess in zip(ranges, parts, strict=True):
        if start is None or start >= of_range.stop:  # the list or a record ends after this range
            continue
        if guess is None or guess.first != start:
            records = dataclasses.replace(of_range, start=start, row=row).read()
            part = records.part
        else:
            records = guess
            faults = [dataclasses.replace(f, row=f.row + row) for f in guess.part.faults]
            part = dataclasses.replace(guess.part, faults=faults)
        yield part
        row += len(part.counts)
        start = records.next


def _is_stored(name: str) -> bool:
    return name.startswith(DATA)


def _fault(row: int, record: Any, kind: str, reason: str) -> Fault:
    fields = record if isinstance(record, dict) else {}
    image = fields.get("image") or fields.get("images")
    first = image[0] if isinstance(image, list) and image else image
    return Fault(
        row, id_of(fields.get("id")), first if isinstance(first, str) else None, kind, reason
    )
