"""JSON of LLaMA-Factory, ms-swift, TRL, unsloth and OpenAI, as a list or a record a line.

Turns are under `messages` or `conversations`, {role, content} or {from, value}; a content is a text
with placeholders or a list of parts. Images are under `images` or `image`, or in the parts.
"""

from collections.abc import Mapping
from pathlib import Path

from xmas.data.indexes.stored_index import StoredIndexes
from xmas.data.json_files.json_rows import JsonRows
from xmas.data.readers import llava

_WORDS = (b'"messages"', b'"role"', b'"texts"', b'"completion"')


def recognises(annotations: Path, head: bytes) -> bool:
    """Whether a file begins as JSON with `messages`, roles, `texts` or `completion`."""
    is_json = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"[", b"{"))
    return is_json and not llava.recognises(annotations, head) and any(w in head for w in _WORDS)


def read(
    annotations: Path,
    images: Path,
    columns: Mapping[str, str] | None = None,
    indexes: StoredIndexes | None = None,
) -> JsonRows:
    """Open a pool of messages. Raises PoolError: see `JsonRows`."""
    return JsonRows(annotations, images, columns=columns, indexes=indexes)


def read_all(
    annotations: Path,
    images: Path,
    columns: Mapping[str, str] | None = None,
    indexes: StoredIndexes | None = None,
) -> JsonRows:
    """Open a pool of messages, with malformed rows in `faults`. Raises PoolError: the file is
    neither a JSON list nor JSON lines.
    """
    return JsonRows(annotations, images, columns=columns, indexes=indexes, refuse=False)
