"""Leaderboards: the scores in a store, each compared with the target trained on the whole pool.

A subset's score says little alone, so every score is taken relative to its reference, and averaged
to an ARP, see `arp`. Scores that would compare two things at once are refused: one benchmark has
one split, metric, protocol and number of questions, and the same files, prompts, judge and
generation settings. A run that lacks a benchmark gets no ARP over it, since a mean over fewer would
favour or punish it. A server's answers and local ones are never in one table, on any benchmark.
Controls with shuffled images are left out, and benchmarks that have no question here, such as short
answers in a pool without any: these are scores of nothing.

Runs that share selector, budget and seed but not their settings are rows of their own, labelled
with what is theirs: what more than half of them have is not named. A seed is not a setting, but of
trainings with one seed those whose proxies have different ones.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from xmas.evaluation.facts import in_order
from xmas.evaluation.generation.endpoint_generation import SERVED
from xmas.results.arp import averages, mean_ranks, ranks, reasons, reference_means
from xmas.results.leaderboard_rows import Row, row_of, short
from xmas.results.score_records import Run, Settings, TableError

REFERENCE = "full"  # the name of the reference's row
BASE = "base"  # the same, where no target is trained on all rows: the start point, untrained


@dataclasses.dataclass(frozen=True)
class Leaderboard:
    """All rows of one pool that share a reference, which comes first: the target trained on all
    rows, or its start point without such a row.
    """

    pool: str
    reference_group: str
    benchmarks: dict[str, Run]  # by name, a run that says split, metric and number of questions
    unreferenced: tuple[str, ...]  # benchmarks without a reference score above 0: in no ARP
    rows: tuple[Row, ...]
    without_questions: dict[str, str] = dataclasses.field(default_factory=dict)  # by name, why

    @property
    def averages(self) -> dict[str, tuple[str, ...]]:
        """The benchmarks of every ARP, by its name."""
        return averages(tuple(self.benchmarks))

    def why_no_arp(self, row: Row, name: str, seed: int | None = None) -> list[str]:
        """Why a row, or its training with one seed, lacks the average `name`; empty: it has it."""
        gaps = row.gaps if seed is None else {seed: row.gaps.get(seed, {})}
        return reasons(self.averages[name], gaps, self.unreferenced)


def leaderboards(scores: Iterable[Run]) -> list[Leaderboard]:
    """One leaderboard for every pool and reference group.

    Raises:
        TableError: scores of one benchmark were not measured alike, or two scores have the same
            selector, settings, budget, seed and benchmark.
    """
    trained = [run for run in scores if run.control == "none"]
    groups = _grouped(trained, lambda run: (run.pool, run.reference_group))
    return [_leaderboard(alike) for alike in groups if any(run.num for run in alike)]


def _leaderboard(runs_of_group: list[Run]) -> Leaderboard:
    members = [run for run in runs_of_group if run.num]
    benchmarks = _benchmarks(members)
    references = _references(members)
    means = reference_means(
        {name: [run.score for run in references if run.benchmark == name] for name in benchmarks}
    )
    rows = []
    if references:
        name = BASE if references[0].role == BASE else REFERENCE
        full = [dataclasses.replace(run, selector=name) for run in references]
        rows.append(dataclasses.replace(row_of(full, (), benchmarks, means), is_reference=True))
    others = ("reference", BASE) if references and references[0].role == BASE else ("reference",)
    subsets = [run for run in members if run.role not in others]
    for alike in _grouped(
        subsets, lambda run: (run.unit, run.budget > 1, run.budget, run.selector)
    ):
        variants = _grouped(alike, lambda run: run.settings)
        counts = Counter(setting for variant in variants for setting in variant[0].settings)
        for variant in variants:
            own = _telling(variant[0].settings, counts, len(variants))
            for seeds, of_seeds in _by_crossed_seeds(variant):
                rows.append(row_of(of_seeds, own + seeds, benchmarks, means))
    return Leaderboard(
        pool=members[0].pool,
        reference_group=members[0].reference_group,
        benchmarks=benchmarks,
        unreferenced=tuple(name for name in benchmarks if name not in means),
        rows=tuple(_ranked(rows, list(benchmarks))),
        without_questions={
            run.benchmark: run.invalid or "it has no question"
            for run in runs_of_group
            if not run.num and run.benchmark not in benchmarks
        },
    )


def _telling(settings: Settings, counts: Counter[tuple[str, Any]], variants: int) -> Settings:
    """The settings that tell one variant from the others: not those of more than half of them,
    where another has something else; those nearest to the root first.
    """
    own = [setting for setting in settings if 2 * counts[setting] <= variants]
    return tuple(sorted(own, key=lambda setting: setting[0].count(".")))


def _by_crossed_seeds(variant: list[Run]) -> list[tuple[Settings, list[Run]]]:
    """Trainings that differ in a seed of a stage before the target, such as the proxy's, and not in
    their own, told apart by that seed. Where both vary together, they are one row.
    """
    crossed: set[str] = set()
    for alike in _grouped(variant, lambda run: (run.seed, run.benchmark)):
        first = dict(alike[0].other_seeds)
        for run in alike[1:]:
            crossed |= {path for path, seed in run.other_seeds if first.get(path) != seed}
    parts = _grouped(variant, lambda run: _seeds_at(run, crossed))
    return [(_seeds_at(part[0], crossed), part) for part in parts]


def _seeds_at(run: Run, paths: set[str]) -> Settings:
    """The seeds at these paths, once where one stage is in several places."""
    by_name = {(short(path), seed): path for path, seed in run.other_seeds if path in paths}
    return tuple((path, seed) for (_, seed), path in by_name.items())


def _references(members: list[Run]) -> list[Run]:
    """One run for every seed and benchmark among those trained on all rows; without any, among
    those of the untrained start point.

    Any selector at a budget of everything is the same training; `full` is preferred where it is
    among them.
    """
    complete = [run for run in members if run.role == "reference"]
    complete = complete or [run for run in members if run.role == BASE]
    complete.sort(key=lambda run: run.selector == REFERENCE)
    return list({(run.seed, run.benchmark): run for run in complete}.values())


def _benchmarks(members: list[Run]) -> dict[str, Run]:
    """A run for every benchmark, in order. Raises TableError: its runs were measured unalike."""
    _check_one_generator(members)
    benchmarks = {}
    for name in in_order(run.benchmark for run in members):
        runs = [run for run in members if run.benchmark == name]
        for run in runs:
            _check_alike(name, runs[0], run)
        benchmarks[name] = runs[0]
    return benchmarks


def _check_one_generator(members: list[Run]) -> None:
    """Raise TableError if some answers came from a server and others did not."""
    by_server = {run.protocol.startswith(SERVED): run for run in members}
    if len(by_server) > 1:
        served, local = by_server[True], by_server[False]
        raise TableError(
            f"{served.benchmark} was answered by a server ({served.protocol}: {served.folder}), "
            f"{local.benchmark} was not ({local.protocol}: {local.folder}); these do not compare: "
            f'choose with table.protocol="{served.protocol}" or "{local.protocol}"'
        )


def _check_alike(name: str, first: Run, other: Run) -> None:
    """Raise TableError, naming the first thing that two scores of a benchmark do not share."""
    sides = [
        {aspect: str(getattr(run, aspect)) for aspect in ("split", "metric", "protocol", "num")}
        | dict(run.measured)
        for run in (first, other)
    ]
    for aspect in {**sides[0], **sides[1]}:
        values = [side.get(aspect, "nothing") for side in sides]
        if values[0] != values[1]:
            raise TableError(
                f"{name}: scores of different {aspect.lstrip('.')} do not compare: {values[0]} "
                f"({first.folder}); {values[1]} ({other.folder}). Choose with table.protocol or "
                "table.experiment, or keep them in stores of their own"
            )


def _ranked(rows: list[Row], benchmarks: list[str]) -> Iterator[Row]:
    """The same rows with their ranks among those of their budget."""
    for alike in [list(group) for _, group in itertools.groupby(rows, _budget)]:
        means = {number: row.arp.mean for number, row in enumerate(alike) if row.arp is not None}
        by_arp = {} if alike[0].is_reference else ranks(means)
        scores = [{name: cell.mean for name, cell in row.scores.items()} for row in alike]
        by_benchmark = {} if alike[0].is_reference else mean_ranks(scores, benchmarks)
        for number, row in enumerate(alike):
            yield dataclasses.replace(
                row, rank=by_arp.get(number), mean_rank=by_benchmark.get(number)
            )


def _budget(row: Row) -> tuple[bool, str, float]:
    return row.is_reference, row.unit, row.budget


def _grouped(members: Iterable[Run], key: Callable[[Run], Any]) -> list[list[Run]]:
    return [list(alike) for _, alike in itertools.groupby(sorted(members, key=key), key)]
