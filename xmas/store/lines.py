"""Files of JSON lines that grow while work proceeds, each line with a checksum.

After a power cut the end of such a file may be missing, torn or zeros: what was appended since the
last sync. A line that is not what was written is left out, so that its work is done again.
"""

import contextlib
import json
import logging
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from xmas.store.atomic import write_atomically
from xmas.store.durable import sync_folder

log = logging.getLogger(__name__)

_CHECKSUM = re.compile(rb', "crc32": (\d+)}$')


@contextlib.contextmanager
def appending(path: Path, *, seconds: float) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that appends a record to a file as a line, within a with block.

    `seconds` between two syncs: what a power cut may cost. A process that dies loses nothing.
    """
    with path.open("ab") as file:
        sync_folder(path.parent)
        last = time.monotonic()

        def append(record: dict[str, Any]) -> None:
            nonlocal last
            text = json.dumps(record, ensure_ascii=False)
            file.write(f'{text[:-1]}, "crc32": {zlib.crc32(text.encode())}}}\n'.encode())
            file.flush()
            if time.monotonic() - last >= seconds:
                os.fsync(file.fileno())
                last = time.monotonic()

        try:
            yield append
        finally:
            os.fsync(file.fileno())


def whole_lines(path: Path) -> dict[int, dict[str, Any]]:
    """The records in a file by the number of their line, from 1; none if there is no file.

    Lines that are not what was written are left out, with a warning that names them; a last line
    without its end is left out. Lines of earlier versions have no checksum.
    """
    records, damaged = _read(path)
    if damaged:
        log.warning(
            "%s: line %s not what was written; their work is done again",
            path,
            f"{damaged[0]} is" if len(damaged) == 1 else f"{', '.join(map(str, damaged))} are",
        )
    return {number: record for number, (_, record) in records.items()}


def keep_whole_lines(path: Path) -> list[dict[str, Any]]:
    """The records as `whole_lines` gives them; other lines are removed from the file."""
    records = list(whole_lines(path).values())
    lines = [line for line, _ in _read(path)[0].values()]
    content = b"".join(line + b"\n" for line in lines)
    if path.exists() and path.read_bytes() != content:
        write_atomically(path, lambda partial: partial.write_bytes(content))
    return records


def _read(path: Path) -> tuple[dict[int, tuple[bytes, dict[str, Any]]], list[int]]:
    """Lines and their records by number, and the numbers of the lines that are damaged."""
    if not path.exists():
        return {}, []
    records, damaged = {}, []
    *lines, _unfinished = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        checksum = _CHECKSUM.search(line)
        text = line if checksum is None else line[: checksum.start()] + b"}"
        try:
            record = json.loads(text)
        except ValueError:  # neither JSON nor UTF-8
            record = None
        if not isinstance(record, dict) or (checksum and zlib.crc32(text) != int(checksum[1])):
            damaged.append(number)
        else:
            records[number] = (line, record)
    return records, damaged
