"""Intervals of a leaderboard, and whether a row differs from random.

Everything is drawn together, see `bootstrap`: the questions once for all rows, the seeds of every
row by themselves, those of the reference too. So what all rows share, an easy draw of questions or
a reference that came out well, cancels in a difference.
"""

import dataclasses
import functools
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from xmas.evaluation.outcomes import Kept
from xmas.results.arp import ALL, arps, relative_scores
from xmas.results.leaderboard import Leaderboard
from xmas.results.leaderboard_rows import Row
from xmas.results.score_records import Run, TableError
from xmas.results.statistics.bootstrap import Interval, holm, over_questions, over_seeds, p_value

BASELINE = "random"

Draws = Float[np.ndarray, " draws"]


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a row's ARP stands above that of the baseline at the same budget, in points."""

    points: float
    interval: Interval | None  # None: a score of one of both keeps no outcomes
    p: float | None  # None: no interval, or one of both has a single seed
    adjusted: float | None = None  # p for all differences of the leaderboard, see `bootstrap.holm`

    @property
    def significant(self) -> bool:
        return self.adjusted is not None and self.adjusted < 0.05


@dataclasses.dataclass(frozen=True)
class Certainty:
    """What is known about a row beside its means. With one seed intervals hold questions only."""

    scores: dict[str, Interval]  # by benchmark; absent: a score keeps no outcomes
    relative: dict[str, Interval]
    arps: dict[str, Interval]  # by the name of the mean
    against: Difference | None  # None: the row is the baseline, or its budget has no one baseline


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """The draws of a row, by benchmark and by the name of a mean."""

    scores: dict[str, Draws]
    relative: dict[str, Draws]
    arps: dict[str, Draws]


def certainties(
    leaderboard: Leaderboard, *, draws: int = 2000, seed: int = 0
) -> tuple[Certainty, ...]:
    """For every row of the leaderboard, in its order.

    Raises TableError: outcomes of one benchmark belong to different questions, or are damaged.
    """
    answered: dict[str, Draws] = {}  # by the folder of the run
    for name in leaderboard.benchmarks:
        answered |= _answered(leaderboard, name, draws, seed)
    scores = [_drawn(row, answered, draws, seed) for row in leaderboard.rows]
    reference = scores[0] if leaderboard.rows[0].is_reference else {}
    drawn = [_relative(one, reference, leaderboard) for one in scores]
    found = [_difference(number, leaderboard.rows, drawn) for number in range(len(drawn))]
    tested = {n: one.p for n, one in enumerate(found) if one is not None and one.p is not None}
    adjusted = holm(tested)
    known = []
    for number, (one, against) in enumerate(zip(drawn, found, strict=True)):
        if against is not None:
            against = dataclasses.replace(against, adjusted=adjusted.get(number))
        parts = (_intervals(part) for part in (one.scores, one.relative, one.arps))
        known.append(Certainty(*parts, against=against))
    return tuple(known)


def _intervals(drawn: Mapping[str, Draws]) -> dict[str, Interval]:
    return {name: Interval.of(values) for name, values in drawn.items()}


def _answered(leaderboard: Leaderboard, name: str, draws: int, seed: int) -> dict[str, Draws]:
    """The scores on one benchmark over other questions, by run, of those that keep outcomes."""
    runs = [run for row in leaderboard.rows for run in row.runs if run.benchmark == name]
    kept = {run.folder: _kept(run) for run in runs if _place(run).exists()}
    digests = {one.digest: folder for folder, one in kept.items()}
    if len(digests) > 1:
        raise TableError(
            f"{name}: outcomes of different questions: {', '.join(digests.values())}; move the "
            "one that does not belong here out of the store"
        )
    if not kept:
        return {}
    drawn = over_questions(list(kept.values()), draws, _generator(seed, name))
    return dict(zip(kept, drawn.T, strict=True))


def _place(run: Run) -> Path:
    return Path(run.folder) / "outcomes.npz"


def _kept(run: Run) -> Kept:
    try:
        return Kept.read(_place(run))
    except ValueError as error:
        raise TableError(str(error)) from error


def _drawn(row: Row, answered: Mapping[str, Draws], draws: int, seed: int) -> dict[str, Draws]:
    """The row's mean score by benchmark, where all its seeds have one that keeps outcomes."""
    found: dict[str, list[Run]] = {}
    for run in row.runs:
        if run.folder in answered:
            found.setdefault(run.benchmark, []).append(run)
    drawn = {}
    for name, runs in found.items():
        if len(runs) < len(row.seeds):
            continue
        rng = _generator(seed, repr((row.selector, row.budget, row.settings)))
        scores = np.array([run.score for run in runs], dtype=np.float64)
        questions = np.mean([answered[run.folder] for run in runs], axis=0)
        drawn[name] = questions + over_seeds(scores, draws, rng)
    return drawn


def _relative(
    scores: dict[str, Draws], reference: Mapping[str, Draws], leaderboard: Leaderboard
) -> _Drawn:
    whole = {
        name: draws for name, draws in reference.items() if name not in leaderboard.unreferenced
    }
    relative = relative_scores(scores, whole)
    mean = functools.partial(np.mean, axis=0)
    return _Drawn(scores, relative, arps(relative, leaderboard.averages, mean))


def _difference(number: int, rows: tuple[Row, ...], drawn: list[_Drawn]) -> Difference | None:
    row = rows[number]
    beside = [
        other
        for other, one in enumerate(rows)
        if one.selector == BASELINE and (one.unit, one.budget) == (row.unit, row.budget)
    ]
    if row.is_reference or len(beside) != 1 or beside == [number]:
        return None
    base = rows[beside[0]]
    if row.arp is None or base.arp is None:
        return None
    points = row.arp.mean - base.arp.mean
    if not all(ALL in drawn[each].arps for each in (number, beside[0])):
        return Difference(points, None, None)
    values = drawn[number].arps[ALL] - drawn[beside[0]].arps[ALL]
    seeded = min(len(row.seeds), len(base.seeds)) > 1
    return Difference(points, Interval.of(values), p_value(values) if seeded else None)


def _generator(seed: int, name: str) -> np.random.Generator:
    """Its own for every name, so that a row or benchmark more changes no other interval."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
