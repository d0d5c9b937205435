"""A row of a leaderboard: one selector at one budget, over its seeds."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev

from xmas.results.arp import ALL, arps, averages, relative_scores
from xmas.results.score_records import Run, Settings, TableError

_LABELLED = 3  # settings in a label


@dataclasses.dataclass(frozen=True)
class Cell:
    """A mean over seeds; `sd` is the sample standard deviation, None for one seed."""

    mean: float
    sd: float | None
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Cell":
        return cls(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


@dataclasses.dataclass(frozen=True)
class Row:
    """One selector at one budget over its seeds; `scores` and `relative` by benchmark."""

    selector: str
    settings: Settings  # that tell it from others of its selector and budget
    budget: float
    rows: tuple[int, ...]  # trained on: one number, or several where seeds differ
    seeds: tuple[int, ...]
    scores: dict[str, Cell]
    relative: dict[str, Cell]
    arps: dict[str, Cell]  # by the name of the average, see `arp.averages`; of complete rows only
    seed_relative: dict[int, dict[str, float]]  # the relative scores of each training
    seed_arps: dict[int, dict[str, float]]  # and its averages
    gaps: dict[int, dict[str, str]]  # by seed, benchmarks without a score; "" or why it is invalid
    runs: tuple[Run, ...] = dataclasses.field(repr=False)  # the scores that the row summarises
    unit: str = "rows"  # of a budget above 1; or tokens
    nested: bool = True  # whether the selector's subsets at other budgets contain one another
    saw_validation: bool = False  # whether its rows were chosen by a benchmark's validation rows
    is_reference: bool = False
    rank: float | None = None  # by ARP among the rows of the budget, 1 is best
    mean_rank: float | None = None  # over the benchmarks, among those that have them all

    @property
    def arp(self) -> Cell | None:
        """Over all benchmarks of the leaderboard."""
        return self.arps.get(ALL)

    def sources(self, benchmark: str) -> dict[str, Cell]:
        """Its scores on each source of a benchmark's questions, where the benchmark has them."""
        by_source: dict[str, list[float]] = {}
        for run in self.runs:
            for source, (score, _) in run.sources.items() if run.benchmark == benchmark else ():
                by_source.setdefault(source, []).append(score)
        return {source: Cell.of(scores) for source, scores in by_source.items()}

    @property
    def budget_text(self) -> str:
        """The budget with its unit: `20 %`, `1,200 rows`."""
        return f"{100 * self.budget:g} %" if self.budget <= 1 else f"{self.budget:,.0f} {self.unit}"

    @property
    def label(self) -> str:
        """The selector, and in brackets the settings that differ between rows of that selector."""
        parts = [f"{short(path)}={value}" for path, value in self.settings[:_LABELLED]]
        if len(self.settings) > _LABELLED:
            parts.append("...")
        return f"{self.selector} [{', '.join(parts)}]" if parts else self.selector


def short(path: str) -> str:
    """The end of a dotted path that says what it is: of a seed, whose.

    >>> short(".subset.ranking.selector.k"), short(".selector.trajectories.proxy.seed")
    ('k', 'proxy.seed')
    """
    names = path.split(".")
    return ".".join(names[-2:]) if names[-1] == "seed" else names[-1]


def row_of(
    members: list[Run],
    settings: Settings,
    benchmarks: Iterable[str],
    reference: Mapping[str, float],
) -> Row:
    """The row that summarises `members`.

    Args:
        members: scores of one selector and budget, any number of seeds and benchmarks.
        settings: those that the row's label shows.
        benchmarks: of the leaderboard, in order.
        reference: mean score by benchmark, see `arp.reference_means`.

    Raises:
        TableError: two of them are scores of one seed on one benchmark.
    """
    by_seed: dict[int, dict[str, Run]] = {}
    for run in sorted(members, key=lambda run: run.seed):
        twin = by_seed.setdefault(run.seed, {}).setdefault(run.benchmark, run)
        if twin is not run:
            raise TableError(
                f"{run.selector}, budget {run.budget}, seed {run.seed} has two scores on "
                f"{run.benchmark}: {twin.folder} and {run.folder}; move one out of the store"
            )
    ordered = list(benchmarks)
    scores = {
        seed: {
            name: run.score
            for name in ordered
            if (run := of_seed.get(name)) is not None and run.score is not None
        }
        for seed, of_seed in by_seed.items()
    }
    relative = {seed: relative_scores(of_seed, reference) for seed, of_seed in scores.items()}
    over = averages(ordered)
    seed_arps = {seed: arps(of_seed, over) for seed, of_seed in relative.items()}
    complete = [name for name in over if all(name in of_seed for of_seed in seed_arps.values())]
    gaps = {
        seed: {
            name: _why_invalid(of_seed.get(name)) for name in ordered if name not in scores[seed]
        }
        for seed, of_seed in by_seed.items()
    }
    return Row(
        selector=members[0].selector,
        settings=settings,
        budget=members[0].budget,
        rows=tuple(sorted({run.rows for run in members})),
        seeds=tuple(by_seed),
        scores=_over_seeds(scores, ordered),
        relative=_over_seeds(relative, ordered),
        arps=_over_seeds(seed_arps, complete),
        seed_relative=relative,
        seed_arps=seed_arps,
        gaps={seed: missing for seed, missing in gaps.items() if missing},
        runs=tuple(run for of_seed in by_seed.values() for run in of_seed.values()),
        unit=members[0].unit,
        nested=members[0].nested,
        saw_validation=any(run.saw_validation for run in members),
    )


def _over_seeds(values: Mapping[int, Mapping[str, float]], names: Iterable[str]) -> dict[str, Cell]:
    """Mean and spread of each name over the seeds that have it."""
    by_name = {name: [of[name] for of in values.values() if name in of] for name in names}
    return {name: Cell.of(of_seeds) for name, of_seeds in by_name.items() if of_seeds}


def _why_invalid(run: Run | None) -> str:
    """Empty where there is no score at all."""
    return "" if run is None else f"invalid: {run.invalid or 'the file does not say why'}"


def not_nested(rows: Iterable[Row]) -> str | None:
    """Which selectors select anew for every budget, as a note; None where none does."""
    names = sorted({row.selector for row in rows if not row.nested})
    if not names:
        return None
    return f"Not nested: {', '.join(names)}; a smaller subset is no part of a larger one"
