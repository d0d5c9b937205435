"""Intervals of a leaderboard, and whether a row differs from random.

Everything is drawn together, see `bootstrap`: the questions once for all rows, the seeds of every
row independently, those of the reference too. So what all rows share, an easy draw of questions or
a reference with a high score, cancels in a difference.
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
from xmas.results.statistics.bootstrap import (
    Interval,
    holm,
    over_questions,
    over_seeds,
    p_value,
    pictures_of_all,
)

BASELINE = "random"

Draws = Float[np.ndarray, " draws"]


@dataclasses.dataclass(frozen=True)
class Difference:
    """A row's ARP minus that of the baseline at the same budget, in points."""

    points: float
    interval: Interval | None  # None: a score of one of both keeps no outcomes
    p: float | None  # None: no interval, or one of both has a single seed
    adjusted: float | None = None  # p for all differences of the leaderboard, see `bootstrap.holm`

    @property
    def significant(self) -> bool:
        return self.adjusted is not None and self.adjusted < 0.05


@dataclasses.dataclass(frozen=True)
class Certainty:
    """The intervals of a row. With one seed they cover the choice of questions only."""

    scores: dict[str, Interval]  # by benchmark; absent: a score keeps no outcomes
    relative: dict[str, Interval]
    arps: dict[str, Interval]  # by the name of the mean
    against: Difference | None  # None: the row is the baseline, or its budget has no one baseline
    pictures: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    """By benchmark whose units share pictures: how many units, and how many pictures."""


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
    by_run: dict[str, Draws] = {}  # by the folder of the run
    pictures = {}
    for name in leaderboard.benchmarks:
        outcomes = _outcomes_of(leaderboard, name)
        if not outcomes:
            continue
        shown = pictures_of_all([*outcomes.values()])
        pictures[name] = (len(shown), int(shown.max()) + 1)
        if pictures[name][1] > 1 or len(shown) == 1:  # one picture tells nothing of others
            scores = over_questions([*outcomes.values()], draws, _generator(seed, name))
            by_run |= dict(zip(outcomes, scores.T, strict=True))
    shared = {name: counts for name, counts in pictures.items() if counts[0] > counts[1]}
    by_row = [_over_seeds(row, by_run, draws, seed) for row in leaderboard.rows]
    reference = by_row[0] if leaderboard.rows[0].is_reference else {}
    rows = [_relative(of_row, reference, leaderboard) for of_row in by_row]
    differences = [_difference(number, leaderboard.rows, rows) for number in range(len(rows))]
    tested = {
        number: difference.p
        for number, difference in enumerate(differences)
        if difference is not None and difference.p is not None
    }
    adjusted = holm(tested)
    certain = []
    for number, (row, difference) in enumerate(zip(rows, differences, strict=True)):
        if difference is not None:
            difference = dataclasses.replace(difference, adjusted=adjusted.get(number))
        parts = (_intervals(part) for part in (row.scores, row.relative, row.arps))
        certain.append(Certainty(*parts, against=difference, pictures=shared))
    return tuple(certain)


def _intervals(draws: Mapping[str, Draws]) -> dict[str, Interval]:
    return {name: Interval.of(values) for name, values in draws.items()}


def _outcomes_of(leaderboard: Leaderboard, name: str) -> dict[str, Kept]:
    """The outcomes of one benchmark by the run's folder, of runs that keep them.

    Raises TableError: they belong to different questions, or are damaged.
    """
    runs = [run for row in leaderboard.rows for run in row.runs if run.benchmark == name]
    outcomes = {run.folder: _outcomes(run) for run in runs if _path(run).exists()}
    digests = {of_run.digest: folder for folder, of_run in outcomes.items()}
    if len(digests) > 1:
        raise TableError(
            f"{name}: outcomes of different questions: {', '.join(digests.values())}; move the "
            "one that does not belong here out of the store"
        )
    return outcomes


def _path(run: Run) -> Path:
    return Path(run.folder) / "outcomes.npz"


def _outcomes(run: Run) -> Kept:
    try:
        return Kept.read(_path(run))
    except ValueError as error:
        raise TableError(str(error)) from error


def _over_seeds(row: Row, by_run: Mapping[str, Draws], draws: int, seed: int) -> dict[str, Draws]:
    """Draws of the row's mean score by benchmark, where all its seeds have one with outcomes."""
    runs_of: dict[str, list[Run]] = {}
    for run in row.runs:
        if run.folder in by_run:
            runs_of.setdefault(run.benchmark, []).append(run)
    means = {}
    for name, runs in runs_of.items():
        if len(runs) < len(row.seeds):
            continue
        rng = _generator(seed, repr((row.selector, row.budget, row.settings)))
        scores = np.array([run.score for run in runs], dtype=np.float64)
        questions = np.mean([by_run[run.folder] for run in runs], axis=0)
        means[name] = questions + over_seeds(scores, draws, rng)
    return means


def _relative(
    scores: dict[str, Draws], reference: Mapping[str, Draws], leaderboard: Leaderboard
) -> _Drawn:
    whole = {
        name: draws for name, draws in reference.items() if name not in leaderboard.unreferenced
    }
    relative = relative_scores(scores, whole)
    mean = functools.partial(np.mean, axis=0)
    return _Drawn(scores, relative, arps(relative, leaderboard.averages, mean))


def _difference(number: int, rows: tuple[Row, ...], by_row: list[_Drawn]) -> Difference | None:
    row = rows[number]
    baselines = [
        place
        for place, candidate in enumerate(rows)
        if candidate.selector == BASELINE
        and (candidate.unit, candidate.budget) == (row.unit, row.budget)
    ]
    if row.is_reference or len(baselines) != 1 or baselines == [number]:
        return None
    baseline = rows[baselines[0]]
    if row.arp is None or baseline.arp is None:
        return None
    points = row.arp.mean - baseline.arp.mean
    draws, base_draws = by_row[number].arps, by_row[baselines[0]].arps
    if ALL not in draws or ALL not in base_draws:
        return Difference(points, None, None)
    values = draws[ALL] - base_draws[ALL]
    several_seeds = min(len(row.seeds), len(baseline.seeds)) > 1
    return Difference(points, Interval.of(values), p_value(values) if several_seeds else None)


def _generator(seed: int, name: str) -> np.random.Generator:
    """Another one for every name, so that one more row or benchmark changes no other interval."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
