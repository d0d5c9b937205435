"""The index of consecutive rows of a table, by Arrow's and NumPy's operations on whole columns.

They tell which rows are a usual conversation without a fault for sure; the others are read one by
one as records (`xmas.data.records.record_faults`), which says what is wrong with them.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from xmas.data.faults import Fault, id_of
from xmas.data.indexes.index import Index, Part
from xmas.data.indexes.names import Names, offsets_of
from xmas.data.indexes.side_processes import side_by_side
from xmas.data.indexes.stored_index import LARGE
from xmas.data.records.identity import DATA, NO_FOLDER, SOURCES, TEXT, renamed, source_of
from xmas.data.records.record_faults import fault_in
from xmas.data.tables.image_columns import (
    columns_of,
    is_place,
    listed,
    marked_images,
    name_in_table,
)
from xmas.data.tables.table import Chunk, Table, functions
from xmas.data.tables.usual_columns import Pictures, is_text, pictures_of, usual_rows

ROWS = 1 << 16  # that are read together


@dataclasses.dataclass(frozen=True)
class Run:
    """Consecutive chunks of a table with the same columns, from one folder; a job of a process.

    Args:
        start: the number of its first chunk in the table.
        stop: that after its last.
        image_columns: what the table calls those of images.
        columns: what the table calls its columns where it is not our name.
        images: the folder that image names are relative to.
    """

    table: Table
    start: int
    stop: int
    image_columns: Sequence[str]
    columns: Mapping[str, str]
    images: Path

    @property
    def chunks(self) -> Sequence[Chunk]:
        return self.table.chunks[self.start : self.stop]

    @property
    def first(self) -> int:
        """The number of its first row in the table."""
        return int(self.table.starts[self.start])

    def __call__(self) -> Part:
        """The index of its rows."""
        theirs = self.chunks[0].columns
        others = [name for name in theirs if name not in self.image_columns]
        arrays = columns_of(self.chunks, others)
        arrays |= marked_images(self.chunks, [n for n in theirs if n in self.image_columns])
        arrays = renamed(arrays, self.columns)
        rows = sum(chunk.rows for chunk in self.chunks)
        pictures = pictures_of(arrays, rows, self.first)
        if pictures is None:
            return self._read(arrays, np.arange(rows))
        usual = usual_rows(arrays, pictures)
        if not usual.any():
            return self._read(arrays, np.arange(rows))
        part = self._of_columns(arrays, pictures)
        if usual.all():
            return part
        unusual = np.flatnonzero(~usual)
        return _with_rows(part, unusual, self._read(arrays, unusual))

    def _of_columns(self, arrays: Mapping[str, Any], pictures: Pictures) -> Part:
        """The index of its rows as if all were usual."""
        import pyarrow

        pc = functions()

        sources = pyarrow.nulls(len(pictures.counts), pyarrow.string())
        for key in SOURCES:
            array = arrays.get(key)
            if array is not None and is_text(array):
                sources = pc.coalesce(sources, array.cast(pyarrow.string()))
        if sources.null_count:
            folders = pictures.folders(lambda path: self._source({}, [path]))
            sources = pc.coalesce(sources, folders)
        codes = sources.dictionary_encode()
        pictured = [self._refined(name, pictured=True) for name in codes.dictionary.to_pylist()]
        alone = [self._refined(name, pictured=False) for name in codes.dictionary.to_pylist()]
        names, number = np.unique([*pictured, *alone], return_inverse=True)
        of_code = number.reshape(2, -1)
        source = of_code[(pictures.counts == 0).astype(int), codes.indices.to_numpy()]
        return _in_order(
            Part(pictures.counts, pictures.names(), pictures.stored, source, names.tolist())
        )

    def _read(self, arrays: Mapping[str, Any], rows: Int[np.ndarray, " some"]) -> Part:
        """The index of some of its rows, each read as a record."""
        faults: list[Fault] = []
        part = Part.of(self._records(arrays, rows, faults), _is_stored)
        return dataclasses.replace(part, faults=faults)

    def _records(
        self, arrays: Mapping[str, Any], rows: Int[np.ndarray, " some"], faults: list[Fault]
    ) -> Iterator[tuple[list[str], str]]:
        import pyarrow

        table = pyarrow.table(dict(arrays)).take(rows)
        for row, record in zip((rows + self.first).tolist(), table.to_pylist(), strict=True):
            record = by_turn(record)
            if (fault := fault_in(record)) is None:
                places = enumerate(listed(record))
                names = [name_in_table(image, row, place) for place, image in places]
                files = [name for name in names if not is_place(name)]
                yield names, self._refined(self._source(record, files), pictured=bool(names))
            else:
                faults.append(Fault(row, id_of(record.get("id")), None, *fault))
                yield [], TEXT

    def _source(self, record: dict[str, Any], files: list[str]) -> str:
        return source_of(record, files, self.images, llava=False)

    def _refined(self, source: str, *, pictured: bool) -> str:
        """A source that says no more than whether there are images is the folder of the shard."""
        if source == TEXT and pictured:
            source = NO_FOLDER
        origin = self.chunks[0].origin
        return origin if origin and source in (TEXT, NO_FOLDER) else source


def index_of(
    table: Table, image_columns: Sequence[str], columns: Mapping[str, str], images: Path
) -> Index:
    """The index of a table in one pass, over several processes where it is large."""
    jobs = list(runs(table, image_columns, columns, images))
    if table.shards is None or table.size() < LARGE:
        return Index.merged([job() for job in jobs])
    return Index.merged(side_by_side(jobs))


def runs(
    table: Table, image_columns: Sequence[str], columns: Mapping[str, str], images: Path
) -> Iterator[Run]:
    """All rows of a table, in runs of about `ROWS`."""
    start = rows = 0
    for number, chunk in enumerate(table.chunks):
        before = table.chunks[start]
        alike = chunk.origin == before.origin and chunk.schema.equals(before.schema)
        if number > start and (not alike or rows + chunk.rows > ROWS):
            yield Run(table, start, number, image_columns, columns, images)
            start, rows = number, 0
        rows += chunk.rows
    if rows:
        yield Run(table, start, len(table.chunks), image_columns, columns, images)


def by_turn(record: dict[str, Any]) -> dict[str, Any]:
    """A record with lists of turns where `datasets` has one of columns."""
    return {name: _by_turn(value) for name, value in record.items()}


def _is_stored(name: str) -> bool:
    return is_place(name) or name.startswith(DATA)


def _by_turn(value: Any) -> Any:
    if isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
        return [dict(zip(value, turn, strict=True)) for turn in zip(*value.values(), strict=True)]
    return value


def _with_rows(part: Part, rows: Int[np.ndarray, " some"], others: Part) -> Part:
    """A part in which some rows are those of another one."""
    counts = part.counts.copy()
    counts[rows] = others.counts
    starts = offsets_of(part.counts)[:-1]
    starts[rows] = len(part.names) + offsets_of(others.counts)[:-1]
    ends = np.cumsum(counts)
    images = np.repeat(starts - ends + counts, counts) + np.arange(int(counts.sum()))
    names = Names.of_all([part.names, others.names]).take(images)
    stored = np.concatenate([part.stored, others.stored])[images]
    source = part.source.copy()
    source[rows] = len(part.source_names) + others.source
    source_names = [*part.source_names, *others.source_names]
    joined, number = np.unique(source_names, return_inverse=True)
    return dataclasses.replace(
        _in_order(Part(counts, names, stored, number[source], joined.tolist())),
        faults=others.faults,
    )


def _in_order(part: Part) -> Part:
    """A part with its sources in the order of the rows, without those that no row has."""
    present, first, source = np.unique(part.source, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    names = [part.source_names[number] for number in present[order].tolist()]
    return dataclasses.replace(part, source=place[source], source_names=names)
