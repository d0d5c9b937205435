"""Stream a JSON list or JSON lines of any length, each element with its byte range in the file."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from xmas.data.rows import PoolError

_SPACE = re.compile(r"\s*")
_DECODE = json.JSONDecoder().raw_decode


def elements(path: Path, file: BinaryIO, *, chunk: int = 1 << 22) -> Iterator[tuple[int, int, Any]]:
    """Yield (first byte, byte after the last, value) of every element of a list, or of JSON lines.

    Args:
        path: of the file, for messages.
        file: its content, not compressed.
        chunk: bytes read at a time; an element may be longer.

    Raises:
        PoolError: not UTF-8, neither a JSON list nor JSON lines, or truncated; names the row.
    """
    yield from _Stream(path, file, chunk).elements()


class _Stream:
    """A window of decoded text over a file: `text[at:]` is yet to be parsed, `byte` is where in the
    file that begins, `ended` whether the file ends with the window.
    """

    def __init__(self, path: Path, file: BinaryIO, chunk: int) -> None:
        self.path, self.file, self.chunk = path, file, chunk
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text, self.at, self.byte, self.ended = "", 0, 0, False

    def elements(self) -> Iterator[tuple[int, int, Any]]:
        self._read_more()
        if self.text.startswith("\ufeff"):
            self._advance(1)
        first = self._skip_space()
        if first == "{":
            return (yield from self._lines())
        if first != "[":
            raise PoolError(
                f"{self.path}: starts with {first!r}, expected a JSON list of conversations ('[') "
                "or JSON lines ('{')"
            )
        self._advance(self.at + 1)
        if self._skip_space() == "]":
            return self._end()
        row = 0
        while True:
            if not self._skip_space():
                raise PoolError(
                    f"{self.path}: cut short after row {row - 1}; the list is not closed, "
                    "fetch the file again"
                )
            yield self._element(row)
            row += 1
            match self._skip_space():
                case ",":
                    self._advance(self.at + 1)
                case "]":
                    return self._end()
                case mark:
                    raise PoolError(
                        f"{self.path}: after row {row - 1} comes {mark!r}, expected ',' or ']'; "
                        "the file is cut short or damaged"
                    )

    def _lines(self) -> Iterator[tuple[int, int, Any]]:
        """A record a line; line breaks inside a record and empty lines are no fault."""
        row = 0
        while self._skip_space():
            yield self._element(row)
            row += 1

    def _element(self, row: int) -> tuple[int, int, Any]:
        value, stop = self._value(row)
        start = self.byte
        self._advance(stop)
        return start, self.byte, value

    def _value(self, row: int) -> tuple[Any, int]:
        """The element at `at` and where it ends; reads on until it is complete."""
        while True:
            try:
                value, stop = _DECODE(self.text, self.at)
                if stop < len(self.text) or self.ended:
                    return value, stop
                problem = json.JSONDecodeError("may continue", self.text, stop)  # as a number may
            except json.JSONDecodeError as error:
                problem = error
            except ValueError as error:  # Python reads integers of up to 4,300 digits
                raise PoolError(
                    f"{self.path}: row {row} has a number of thousands of digits ({error}); fix or "
                    "remove the row"
                ) from error
            except RecursionError as error:
                raise PoolError(
                    f"{self.path}: row {row} has lists or objects nested too deeply to be read; "
                    "fix or remove the row"
                ) from error
            if self.ended:
                raise PoolError(f"{self.path}: row {row} is not valid JSON: {problem}") from problem
            self._read_more()

    def _read_more(self) -> None:
        # As much as is in the window: a long element is then decoded a logarithm of times.
        content = self.file.read(max(self.chunk, len(self.text) - self.at))
        try:
            decoded = self.decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            raise PoolError(f"{self.path}: not UTF-8 ({error}); save it as UTF-8") from error
        self.text, self.at, self.ended = self.text[self.at :] + decoded, 0, not content

    def _advance(self, to: int) -> None:
        passed = self.text[self.at : to]
        self.byte += len(passed) if passed.isascii() else len(passed.encode())
        self.at = to

    def _skip_space(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            space = cast("re.Match[str]", _SPACE.match(self.text, self.at))  # empty where none is
            self._advance(space.end())
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self._read_more()

    def _end(self) -> None:
        self._advance(self.at + 1)
        if rest := self._skip_space():
            raise PoolError(
                f"{self.path}: after the list comes {rest!r}, expected the end of the file"
            )
