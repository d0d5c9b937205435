"""Progress of long work: units done, units a second, time left, of the stage and of the whole run.

On a terminal one line that is redrawn; in a log file a line every ten seconds, so that the log
stays short. Rates are those of the last seconds: what slowed the work down earlier says nothing
about the time that is left.
"""

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

from xmas.store import distributed
from xmas.store.chain import Chain
from xmas.store.printable import one_line

WINDOW = 15.0  # seconds that a rate is over, or since the last unit where that is longer ago
_REDRAWN, _LINES = 0.2, 10.0  # seconds between two states on a terminal, in a file
_SHORTEST = 8  # columns of a bar; a narrower terminal shows the numbers alone


def bar(
    iterable: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    label: str = "",
    unit: str = "row",
    initial: int = 0,
    scaled: bool = False,
    whole: bool = True,
) -> "Bar":
    """A progress bar over `iterable`, or without one a context manager with `update(count)`.

    Args:
        iterable: each of its elements is one unit.
        total: units of the whole work; None: the length of `iterable`.
        label: before the bar.
        unit: singular, e.g. "row".
        initial: units that an interrupted attempt had done.
        scaled: show counts with prefixes, as 4.2M.
        whole: whether these units are all of their stage's work.
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # pyright: ignore[reportArgumentType]
    return Bar(
        iterable, total=total, label=label, unit=unit, initial=initial, scaled=scaled, whole=whole,
        output=sys.stderr if distributed.leads() else None,
    )  # fmt: skip


class Bar:
    """See `bar`. `output`: a text file; None: nothing is shown."""

    def __init__(
        self, iterable: Iterable[Any] | None, *, total: int | None, label: str, unit: str,
        initial: int, scaled: bool, whole: bool, output: Any,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.iterable, self.total, self.label = iterable, total, one_line(label)
        self.count = self.initial = initial
        self.units = unit + ("es" if unit.endswith(("s", "x", "ch", "sh")) else "s")
        self.unit, self.scaled, self.whole = unit, scaled, whole
        self.output, self.clock = output, clock
        self.note = ""
        self.terminal = output is not None and output.isatty()
        self.begun = self.shown = clock()
        self.states = deque([(self.begun, initial)])  # (time, count), oldest first

    def __iter__(self) -> Iterator[Any]:
        assert self.iterable is not None, "a bar without an iterable is updated by its caller"
        with self:
            for element in self.iterable:
                yield element
                self.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def set_postfix_str(self, note: str, refresh: bool = False) -> None:
        """A text after the numbers, as the loss; shown with the next state (tqdm's name)."""
        self.note = one_line(note)

    def update(self, count: int = 1) -> None:
        """Count units that are done."""
        self.count += count
        if self.output is None:
            return
        now = self.clock()
        if now - self.shown >= (_REDRAWN if self.terminal else _LINES):
            self.shown = now
            self.show(self.state(now))

    def close(self) -> None:
        """Take the bar from the terminal; in a file, one last line."""
        if self.output is not None:
            self.show("" if self.terminal else self.summary(self.clock()))
            self.output = None

    def rate(self, now: float) -> float | None:
        """Units a second over the last seconds; None before the first unit."""
        self.states.append((now, self.count))
        while len(self.states) > 2 and self.states[1][0] <= now - WINDOW:
            self.states.popleft()
        begin, before = self.states[0]
        return (self.count - before) / (now - begin) if self.count > before else None

    def state(self, now: float) -> str:
        """The line that is shown while the work runs."""
        rate = self.rate(now)
        left = None
        if rate is not None and self.total is not None:
            left = max(0, self.total - self.count) / rate
        chain = Chain.running
        whole_run = None if chain is None else chain.left(left, whole=self.whole)
        numbers = [self._counts(), _speed(rate, self.unit, self.units, scaled=self.scaled)]
        numbers += [f"{_clock(left)} left"] if left is not None else []
        numbers += [f"all stages {_clock(whole_run)} left"] if whole_run is not None else []
        numbers += [self.note]
        text = ", ".join(number for number in numbers if number)
        start = self._start()
        if not self.total:
            return f"{start}{text}"
        share = min(1.0, self.count / self.total)
        percent = f"{100 * share:.0f} %"
        if not self.terminal:
            return f"{start}{percent}, {text}"
        room = shutil.get_terminal_size().columns - len(f"{start}{percent}  {text}") - 2
        return f"{start}{percent} {self._drawn(share, min(room, 40))}{text}"

    def summary(self, now: float) -> str:
        """The last line in a file: what was done, and how fast on average."""
        seconds = now - self.begun
        done = self.count - self.initial
        numbers = [f"{self._counts()} in {_clock(seconds)}"]
        numbers += (
            [_speed(done / seconds, self.unit, self.units, scaled=self.scaled)]
            if (done and seconds > 0)
            else []
        )
        return self._start() + ", ".join([*numbers, *([self.note] if self.note else [])])

    def show(self, text: str) -> None:
        """Put a state on the output; one that no longer takes text is left alone."""
        assert self.output is not None
        try:
            if self.terminal:
                columns = shutil.get_terminal_size().columns - 1
                self.output.write(f"\r{text[:columns]}\x1b[K")
            else:
                self.output.write(text + "\n")
            self.output.flush()
        except (OSError, ValueError):  # a closed pipe or file: hours of work do not end for a bar
            self.output = None

    def _start(self) -> str:
        place = "" if Chain.running is None else Chain.running.place()
        return f"{place} {self.label}: ".lstrip() if self.label else f"{place} ".lstrip()

    def _counts(self) -> str:
        done = _number(self.count, scaled=self.scaled)
        if self.total is None or self.count == self.total:
            return f"{done} {self.unit if self.count == 1 else self.units}"
        return f"{done} of {_number(self.total, scaled=self.scaled)} {self.units}"

    def _drawn(self, share: float, width: int) -> str:
        if width < _SHORTEST:
            return ""
        full = round(share * (width - 3))
        return f"[{'#' * full}{'.' * (width - 3 - full)}] "


def _number(count: float, *, scaled: bool) -> str:
    if not scaled:
        return f"{count:,.0f}" if count >= 10 or count == round(count) else f"{count:.1f}"
    for prefix in ("", "k", "M", "G"):
        if count < 1000:
            return f"{count:.3g}{prefix}"
        count /= 1000
    return f"{count:.3g}T"


def _speed(rate: float | None, unit: str, units: str, *, scaled: bool) -> str:
    """Units a second, or seconds a unit where that is a number above one."""
    if not rate:
        return ""
    if rate < 1:
        return f"{1 / rate:.1f} s/{unit}"
    return f"{_number(rate, scaled=scaled)} {units}/s"


def _clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any: 0:07, 12:34, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
