"""A row of a table: one selector at one budget, over its seeds."""

import dataclasses
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

from xmas.results.arp import ALL, averages
from xmas.results.score_records import Run, Settings, TableError

_SHOWN = 3  # settings in a label


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
    settings: Settings  # those that tell it from other rows of the selector and budget
    budget: float
    rows: tuple[int, ...]  # trained on: one number, or several where seeds differ
    seeds: tuple[int, ...]
    scores: dict[str, Cell]
    relative: dict[str, Cell]
    arps: dict[str, Cell]  # by the name of what it is over, see `standing.averages`
    gaps: dict[int, tuple[str, ...]]  # by seed, the benchmarks it has no score on, and why if known
    runs: tuple[Run, ...] = dataclasses.field(repr=False)  # that it is made of
    unit: str = "rows"  # of a budget above 1; or tokens
    nested: bool = True  # whether the selector's subsets at other budgets contain one another
    is_reference: bool = False
    rank: float | None = None  # by ARP among the rows of the budget, 1 is best
    mean_rank: float | None = None  # over the benchmarks, among those that have them all

    @property
    def arp(self) -> Cell | None:
        """Over all benchmarks of the comparison."""
        return self.arps.get(ALL)

    @property
    def said_budget(self) -> str:
        """As people say it."""
        return f"{100 * self.budget:g} %" if self.budget <= 1 else f"{self.budget:,.0f} {self.unit}"

    @property
    def label(self) -> str:
        """The selector, and in brackets what tells the row from others of the same selector."""
        shown = [f"{path.rsplit('.', 1)[-1]}={value}" for path, value in self.settings[:_SHOWN]]
        if len(self.settings) > _SHOWN:
            shown.append("...")
        return f"{self.selector} [{', '.join(shown)}]" if shown else self.selector


def row_of(
    members: list[Run], settings: Settings, benchmarks: Iterable[str], means: dict[str, float]
) -> Row:
    """The row that `members` make; `means` are the reference's, by benchmark.

    Raises TableError: two of them claim the same place.
    """
    seeds: dict[int, dict[str, Run]] = {}
    for run in sorted(members, key=lambda run: run.seed):
        twin = seeds.setdefault(run.seed, {}).setdefault(run.benchmark, run)
        if twin is not run:
            raise TableError(
                f"{run.selector}, budget {run.budget}, seed {run.seed} has two scores on "
                f"{run.benchmark}: {twin.folder} and {run.folder}; move one out of the store"
            )
    given = {
        name: {seed: one[name].score for seed, one in seeds.items() if name in one}
        for name in benchmarks
    }
    scores = {
        name: {seed: score for seed, score in of_seed.items() if score is not None}
        for name, of_seed in given.items()
    }
    relative = {
        name: {seed: 100 * score / means[name] for seed, score in of_seed.items()}
        for name, of_seed in scores.items()
        if name in means
    }
    arps = {}
    for name, which in averages(tuple(scores)).items():
        if all(len(relative.get(each, ())) == len(seeds) for each in which):
            arps[name] = Cell.of([fmean(relative[each][seed] for each in which) for seed in seeds])
    gaps = {
        seed: tuple(_gap(name, one.get(name)) for name in scores if seed not in scores[name])
        for seed, one in seeds.items()
    }
    return Row(
        selector=members[0].selector,
        settings=settings,
        budget=members[0].budget,
        rows=tuple(sorted({run.rows for run in members})),
        seeds=tuple(seeds),
        scores={name: Cell.of([*of_seed.values()]) for name, of_seed in scores.items() if of_seed},
        relative={
            name: Cell.of([*of_seed.values()]) for name, of_seed in relative.items() if of_seed
        },
        arps=arps,
        gaps={seed: names for seed, names in gaps.items() if names},
        runs=tuple(run for one in seeds.values() for run in one.values()),
        unit=members[0].unit,
        nested=members[0].nested,
    )


def _gap(name: str, run: Run | None) -> str:
    return (
        name if run is None else f"{name} (invalid: {run.invalid or 'the file does not say why'})"
    )


def not_nested(rows: Iterable[Row]) -> str | None:
    """Which selectors select anew for every budget, as a note; None where none does."""
    names = sorted({row.selector for row in rows if not row.nested})
    if not names:
        return None
    return f"Not nested: {', '.join(names)}; a smaller subset is no part of a larger one"
