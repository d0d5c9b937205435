"""Text from files as it may be shown: in a terminal, a log, a page, a run of W&B.

A name in a pool or a store may have escape sequences that rewrite what the terminal shows, line
ends that look like other lines of a log, marks that turn the order of letters, or half characters
that no file can have.
"""

import copy
import logging
import numbers
import re
from typing import Any

# Controls of ASCII and of Latin-1; marks that override the order of letters; half characters.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_REPLACED = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """Text with its lines and tabs, what cannot be shown replaced by `�`.

    >>> printable("red \\x1b[31m, two\\nlines")
    'red �[31m, two\\nlines'
    """
    return _UNSEEN.sub(_REPLACED, text.replace("\r\n", "\n"))


def one_line(value: object) -> str:
    """A name or another value as part of a line.

    >>> one_line("pool\\n12:00:00 all done")
    'pool 12:00:00 all done'
    """
    return printable(" ".join(re.split(r"[\r\n\t\v\f\x1c-\x1e\x85\u2028\u2029]+", str(value))))


def plain(value: Any) -> Any:
    """A setting or a number with all text in it, at any depth, in one line each."""
    if isinstance(value, dict):
        return {one_line(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return one_line(value) if isinstance(value, str) else value


class Formatter(logging.Formatter):
    """Formats lines of a log, each of whose arguments stays within its line."""

    def format(self, record: logging.LogRecord) -> str:
        arguments = record.args
        if isinstance(arguments, tuple):
            record = copy.copy(record)
            record.args = tuple(map(_argument, arguments))
        return printable(super().format(record))


def _argument(value: Any) -> Any:
    return value if isinstance(value, numbers.Number) else one_line(value)
