"""Write records one after the other, as a JSON list or as JSON lines."""

from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from xmas.data.json_files.compressed import first_bytes

_HEAD = 1 << 12  # bytes; before the first record there is white space at most


def is_list(annotations: Path) -> bool:
    """Whether a JSON file is a list; else it has a record a line."""
    return first_bytes(annotations, _HEAD).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


class JsonFile:
    """A file of records: JSON lines where its name ends so, else a list.

    Records are bytes that are written unchanged. In JSON lines one that is spread over several
    lines has spaces for its line breaks, which JSON allows between its parts only.

    Args:
        indexed: also write Megatron-Energon's index of JSON lines, `PATH.idx`: the byte where each
            line begins, and that where the file ends, as uint64.
    """

    def __init__(self, path: Path, *, indexed: bool = False) -> None:
        self.path, self.indexed = path, indexed
        self._is_lines = path.suffix == ".jsonl"
        self._count = 0

    def __enter__(self) -> "JsonFile":
        self._file: BinaryIO = self.path.open("wb")
        self._index: BinaryIO | None = None
        if self.indexed:
            self._index = self.path.with_name(f"{self.path.name}.idx").open("wb")
        self._note_place()
        if not self._is_lines:
            self._file.write(b"[\n")
        return self

    def add(self, record: bytes) -> None:
        """Write a record."""
        if self._is_lines:
            self._file.write(_on_one_line(record) + b"\n")
        else:
            self._file.write((b",\n" if self._count else b"") + record)
        self._count += 1
        self._note_place()

    def _note_place(self) -> None:
        if self._index is not None:
            self._index.write(self._file.tell().to_bytes(8, "little"))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:
            if kind is None and not self._is_lines:
                self._file.write(b"\n]\n")
        if self._index is not None:
            self._index.close()


def _on_one_line(record: bytes) -> bytes:
    if b"\n" not in record and b"\r" not in record:
        return record
    return record.replace(b"\r", b" ").replace(b"\n", b" ")
