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


Element = tuple[int, int, Any]  # first byte, byte after the last, value


def elements(path: Path, file: BinaryIO, *, chunk: int = 1 << 22) -> Iterator[Element]:
    """Yield (first byte, byte after the last, value) of every element of a list, or of JSON lines.

    Args:
        path: of the file, for messages.
        file: its content, not compressed.
        chunk: bytes read at a time; an element may be longer.

    Raises:
        PoolError: not UTF-8, neither a JSON list nor JSON lines, or truncated; names the row.
    """
    yield from _Stream(path, file, chunk).elements()


def elements_from(
    path: Path, file: BinaryIO, start: int, *, row: int, is_list: bool, chunk: int = 1 << 22
) -> Iterator[Element]:
    """As `elements`, from one of them on.

    Args:
        start: its first byte.
        row: its number, for messages.
        is_list: whether they are of a list, or JSON lines.
    """
    file.seek(start)
    stream = _Stream(path, file, chunk)
    stream.byte = start
    yield from stream.rest_of_list(row) if is_list else stream.lines(row)


class _Stream:
    """A window of decoded text over a file: `text[at:]` is yet to be parsed, `byte` is where in the
    file that begins, `ended` whether the file ends with the window.
    """

    def __init__(self, path: Path, file: BinaryIO, chunk: int) -> None:
        self.path, self.file, self.chunk = path, file, chunk
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text, self.at, self.byte, self.ended = "", 0, 0, False

    def elements(self) -> Iterator[Element]:
        self._read_more()
        if self.text.startswith("\ufeff"):
            self._advance(1)
        first = self._skip_space()
        if first == "{":
            return (yield from self.lines(0))
        if first != "[":
            raise PoolError(
                f"{self.path}: starts with {first!r}, expected a JSON list of conversations ('[') "
                "or JSON lines ('{')"
            )
        self._advance(self.at + 1)
        if self._skip_space() == "]":
            return self._end()
        return (yield from self.rest_of_list(0))

    def rest_of_list(self, row: int) -> Iterator[Element]:
        """The elements of a list from that at `at` on, whose number is `row`, to its end."""
        gap = ""
        while True:
            for element in self._followed_by(gap):
                yield element
                row += 1
            if not self._skip_space():
                raise PoolError(
                    f"{self.path}: cut short after row {row - 1}; the list is not closed, "
                    "fetch the file again"
                )
            yield self._element(row)
            row += 1
            window, end = self.text, self.at
            match self._skip_space():
                case ",":
                    self._advance(self.at + 1)
                    self._skip_space()
                    gap = self._gap(window, end)
                case "]":
                    return self._end()
                case mark:
                    raise PoolError(
                        f"{self.path}: after row {row - 1} comes {mark!r}, expected ',' or ']'; "
                        "the file is cut short or damaged"
                    )

    def lines(self, row: int) -> Iterator[Element]:
        """A record a line; line breaks inside a record and empty lines are no fault."""
        gap = ""
        while self._skip_space():
            for element in self._followed_by(gap):
                yield element
                row += 1
            yield self._element(row)
            row += 1
            window, end = self.text, self.at
            self._skip_space()
            gap = self._gap(window, end)

    def _gap(self, window: str, end: int) -> str:
        """What is between the end of an element and the next one, whose first character is part of
        it; empty where they were not in one window.
        """
        return self.text[end : self.at + 1] if self.text is window else ""

    def _followed_by(self, gap: str) -> Iterator[Element]:
        """The elements from `at` on that are followed by `gap`, as long as the window has them."""
        if not gap:
            return
        text, at, byte = self.text, self.at, self.byte
        is_ascii, step = text.isascii(), len(gap) - 1
        step_bytes = len(gap[:-1].encode())
        while True:
            try:
                value, stop = _DECODE(text, at)
            except (ValueError, RecursionError):  # cut by the window, or malformed
                return
            if not text.startswith(gap, stop):
                return
            start = byte
            end = start + (stop - at if is_ascii else len(text[at:stop].encode()))
            self.at, self.byte = at, byte = stop + step, end + step_bytes
            yield start, end, value

    def _element(self, row: int) -> Element:
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
        is_ascii = self.text.isascii()
        self.byte += to - self.at if is_ascii else len(self.text[self.at : to].encode())
        self.at = to

    def _skip_space(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            if self.text[self.at : self.at + 1].isspace():
                space = cast("re.Match[str]", _SPACE.match(self.text, self.at))
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
