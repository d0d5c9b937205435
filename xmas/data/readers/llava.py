"""LLaVA's format: `{"id", "image", "conversations": [{"from", "value"}, ...]}`, as a JSON list or
a record a line; `image` is a path, a list of paths, or null. `id` is not a key: LLaVA-665k repeats
ids.
"""

from collections.abc import Mapping
from pathlib import Path

from xmas.data.indexes.stored_index import StoredIndexes
from xmas.data.json_files.json_rows import JsonRows
from xmas.data.turns import IMAGE_PLACEHOLDER as IMAGE_PLACEHOLDER

_MARK = b"\xef\xbb\xbf \t\r\n"


def recognises(annotations: Path, head: bytes) -> bool:
    """Whether a file begins as JSON whose records have `conversations` in LLaVA's words."""
    words = b'"conversations"' in head and b'"role"' not in head
    return head.lstrip(_MARK).startswith((b"[", b"{")) and words


def read(
    annotations: Path,
    images: Path,
    columns: Mapping[str, str] | None = None,
    indexes: StoredIndexes | None = None,
) -> JsonRows:
    """Open a pool in LLaVA's format. Raises PoolError: see `JsonRows`."""
    return LlavaRows(annotations, images, columns=columns, indexes=indexes)


def read_all(
    annotations: Path,
    images: Path,
    columns: Mapping[str, str] | None = None,
    indexes: StoredIndexes | None = None,
) -> JsonRows:
    """Open a pool in LLaVA's format, with malformed rows in `faults`. Raises PoolError: the file is
    neither a JSON list nor JSON lines.
    """
    return LlavaRows(annotations, images, columns=columns, indexes=indexes, refuse=False)


class LlavaRows(JsonRows):
    """A pool in LLaVA's format."""

    def __init__(
        self,
        annotations: Path,
        images: Path,
        *,
        columns: Mapping[str, str] | None = None,
        chunk: int = 1 << 20,
        indexes: StoredIndexes | None = None,
        refuse: bool = True,
    ) -> None:
        """Index the file; see `JsonRows`."""
        super().__init__(
            annotations,
            images,
            llava=True,
            columns=columns,
            chunk=chunk,
            indexes=indexes,
            refuse=refuse,
        )
