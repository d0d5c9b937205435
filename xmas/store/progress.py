"""Progress of long work: units done, units a second, time left.

On a terminal a bar; in a log file a line every ten seconds, so that the log stays short.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any

from tqdm import tqdm

from xmas.store import distributed


class _Lines(tqdm):
    """A bar for log files: every state is a line, and none is overwritten."""

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        def write(text: str) -> None:
            if text.strip():
                file.write(text.rstrip() + "\n")
                file.flush()

        return write


def bar(
    iterable: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    label: str = "",
    unit: str = "row",
    initial: int = 0,
    scaled: bool = False,
) -> "tqdm[Any]":
    """A progress bar over `iterable`, or without one a context manager with `update(count)`.

    Args:
        iterable: each of its elements is one unit.
        total: units of the whole work; None: the length of `iterable`.
        label: before the bar.
        unit: singular, e.g. "row".
        initial: units that an interrupted attempt had done.
        scaled: show counts with prefixes, as 4.2M.
    """
    terminal = sys.stderr.isatty()
    return (tqdm if terminal else _Lines)(
        iterable,
        total=total,
        desc=label,
        unit=f" {unit}s",
        initial=initial,
        unit_scale=scaled,
        mininterval=0.2 if terminal else 10,
        ascii=not terminal,
        dynamic_ncols=terminal,
        leave=not terminal,
        disable=not distributed.leads(),
    )
