"""The stages that a run has to compute: which of them is computed now, and the time left over all.

An estimate made before the run knows how the costs of stages compare, but not how fast this machine
is today. It is corrected by what the run has measured so far: the time left is that of the current
stage as its own progress shows it, plus the estimates of the others times measured by estimated
seconds.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import ClassVar

from xmas.store.computation import Computation

_PRIOR = 0.1  # of all estimated seconds: as much counts as measured exactly as estimated
_PRIOR_OF_KIND = 1.0  # seconds of a kind that count as measured at the ratio of all kinds


class Chain:
    """The stages of a run.

    Args:
        estimates: seconds by "<kind>/<key>" of all results that are not there; None: unknown.
    """

    running: ClassVar["Chain | None"] = None

    def __init__(self, estimates: Mapping[str, float | None]) -> None:
        self.estimates = dict(estimates)
        self.measured: dict[str, float | None] = {}  # seconds; None: another process computed it

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """Bars inside show where in this chain they are."""
        before, Chain.running = Chain.running, self
        try:
            yield
        finally:
            Chain.running = before

    @staticmethod
    def note(name: str, seconds: float | None) -> None:
        """Note a result that is there now. `seconds`: of its computation, None elsewhere."""
        chain = Chain.running
        if chain is not None and (seconds is not None or name in chain.estimates):
            chain.measured.setdefault(name, seconds)

    def place(self) -> str:
        """Which stage is computed and of how many, as "3/12"; empty for one stage alone.

        A stage that was not planned, as the reviews of answers, counts from when it begins.
        """
        names = {*self.estimates, *self.measured}
        if Computation.running is not None:
            names.add(Computation.running.name)
        done = len(self.measured)
        return f"{min(done + 1, len(names))}/{len(names)}" if len(names) > 1 else ""

    def left(self, bar: float | None, *, whole: bool) -> float | None:
        """Seconds left over all stages; None where the estimate of one that is left is unknown.

        Args:
            bar: seconds left by the progress of the current work; None: unknown.
            whole: whether that is all of the current stage's work.
        """
        spent = {computation.name: computation.seconds for computation in Computation.stack}
        current = Computation.running.name if Computation.running is not None else None
        todo = {
            name: seconds
            for name, seconds in self.estimates.items()
            if name not in self.measured and name != current
        }
        estimates = [seconds for seconds in todo.values() if seconds is not None]
        if len(estimates) < len(todo):
            return None
        pairs = [  # (kind, estimated, measured)
            (_kind(name), estimate, seconds)
            for name, seconds in self.measured.items()
            if seconds is not None and (estimate := self.estimates.get(name)) is not None
        ]
        estimate = None if current is None else self.estimates.get(current)
        if current is not None and estimate is not None and bar is not None and whole:
            pairs.append((_kind(current), estimate, spent[current] + bar))
        ratios = _Ratios(pairs, sum(seconds or 0.0 for seconds in self.estimates.values()))
        seconds = 0.0 if current is None else bar
        if current is not None and estimate is not None and (bar is None or not whole):
            rest = max(0.0, ratios.of(_kind(current)) * estimate - spent[current])
            seconds = rest if bar is None else max(bar, rest)
        if seconds is None:
            return None
        return seconds + sum(
            max(0.0, ratios.of(_kind(name)) * estimate - spent.get(name, 0.0))
            for name, estimate in zip(todo, estimates, strict=True)
        )


class _Ratios:
    """Measured by estimated seconds, of all kinds of stages and of each."""

    def __init__(self, pairs: list[tuple[str, float, float]], estimated: float) -> None:
        self.pairs = pairs
        self.all = self._ratio(pairs, prior=_PRIOR * estimated, ratio=1.0)

    def of(self, kind: str) -> float:
        own = [pair for pair in self.pairs if pair[0] == kind]
        return self._ratio(own, prior=_PRIOR_OF_KIND, ratio=self.all)

    @staticmethod
    def _ratio(pairs: list[tuple[str, float, float]], *, prior: float, ratio: float) -> float:
        estimated = prior + sum(estimate for _, estimate, _ in pairs)
        measured = prior * ratio + sum(seconds for _, _, seconds in pairs)
        return measured / estimated if estimated else ratio


def _kind(name: str) -> str:
    return name.partition("/")[0]
