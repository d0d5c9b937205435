"""Reads text files of questions, truth and answers, from any source: UTF-8, a mark allowed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xmas.evaluation.protocol import AnswerError

ENCODING = "utf-8-sig"  # UTF-8; the mark that PowerShell and Excel put first is dropped
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # the marks; without one every other byte of ASCII is 0


def text_of(path: Path) -> str:
    """The text of a file. Raises AnswerError: it is not UTF-8."""
    try:
        return path.read_text(encoding=ENCODING)
    except UnicodeDecodeError as error:
        raise not_utf_8(path, error) from error


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of every line. Raises AnswerError: the file is not UTF-8."""
    try:
        with path.open(encoding=ENCODING) as file:
            yield from enumerate(file, start=1)
    except UnicodeDecodeError as error:
        raise not_utf_8(path, error) from error


def not_utf_8(path: Path, error: UnicodeDecodeError) -> AnswerError:
    """The error for a file in another encoding, with how to convert it."""
    with path.open("rb") as file:
        head = file.read(64)
    is_utf_16 = head.startswith(_UTF_16) or b"\0" in head
    name = "UTF-16" if is_utf_16 else "ISO-8859-1 or another encoding"
    from_name = "UTF-16" if is_utf_16 else "ISO-8859-1"
    return AnswerError(
        f"{path}: not UTF-8 but {name} ({error.reason} at byte {error.start}); save it as UTF-8, "
        f"e.g. with iconv -f {from_name} -t UTF-8"
    )


def json_of(text: str, where: str) -> Any:
    """The value of a JSON text. Raises AnswerError: it is none, or none that Python reads."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise AnswerError(f"{where} is not JSON: {error}") from error
    except ValueError as error:  # integers of more than 4,300 digits
        raise AnswerError(f"{where} has a number of thousands of digits: {error}") from error
    except RecursionError as error:
        raise AnswerError(f"{where} is nested too deeply to be read") from error
