"""The files of a pool, opened once as long as they stay the same."""

import dataclasses
import functools
from pathlib import Path

from xmas.data.indexes.stored_index import StoredIndexes
from xmas.data.readers import open_rows
from xmas.data.rows import Rows


@dataclasses.dataclass(frozen=True)
class PoolFiles:
    """The files of a pool and how they are read; `size` and `modified` tell other content."""

    annotations: Path
    images: Path
    format: str | None
    columns: tuple[tuple[str, str], ...]
    split: str | None
    max_pixels: int
    outside: bool
    size: int
    modified: int


@functools.lru_cache(maxsize=4)
def opened(files: PoolFiles, malformed_too: bool, indexes: StoredIndexes | None) -> Rows:
    """Opened once as long as the file's size and time of change stay.

    Args:
        indexes: where the index of a large pool is kept.
    """
    options = {"columns": dict(files.columns), "split": files.split}
    rows = open_rows(
        files.annotations,
        files.images,
        files.format,
        {name: value for name, value in options.items() if value},
        malformed_too=malformed_too,
        indexes=indexes,
    )
    rows.max_pixels, rows.outside = files.max_pixels, files.outside
    return rows
