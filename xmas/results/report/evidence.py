"""What a store holds about a comparison: the trainings behind its rows, their subsets, the pool."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from jaxtyping import Int

from xmas.data.pool import Pool
from xmas.data.rows import PoolError, Rows
from xmas.results.arp import ALL
from xmas.results.leaderboard import Leaderboard
from xmas.results.leaderboard_rows import Cell, Row
from xmas.results.statistics.intervals import Certainty, certainties
from xmas.store import Made, Store, describe
from xmas.store.index import AbsentError, Config, ResultIndex


@dataclasses.dataclass(frozen=True)
class Training:
    """One trained target of a table row."""

    seed: int
    arp: float | None  # None where the row has none
    target: Config

    @property
    def subset(self) -> Config:
        return self.target["subset"]

    @property
    def ranking(self) -> Config:
        return self.target["subset"]["ranking"]


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of the table with the trainings behind it, by seed."""

    row: Row
    is_reference: bool
    trainings: tuple[Training, ...]

    @property
    def selector(self) -> str:
        return self.row.selector

    @property
    def arp(self) -> Cell:
        """Raises ValueError: the row has none, which `row.arp` tells."""
        if self.row.arp is None:
            raise ValueError(f"{self.row.label} has no ARP")
        return self.row.arp

    @property
    def budget(self) -> str:
        """As people say it."""
        return self.row.budget_text.replace(" %", "\N{NO-BREAK SPACE}%")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A comparison and where its trainings came from."""

    comparison: Leaderboard
    lines: tuple[Line, ...]
    index: ResultIndex
    store: Store
    configured: Pool | None  # the pool whose files may be opened
    certainties: tuple[Certainty, ...]  # of the lines, in their order

    def certainty(self, line: Line) -> Certainty:
        """How sure the numbers of a line are."""
        return self.certainties[self.lines.index(line)]

    @property
    def subsets(self) -> list[Line]:
        return [line for line in self.lines if not line.is_reference]

    @property
    def largest(self) -> list[Line]:
        """The subset rows at the largest budget, one or more for each selector trained on it."""
        most = max((line.row.rows[-1] for line in self.subsets), default=0)
        return [line for line in self.subsets if line.row.rows[-1] == most]

    @property
    def pool(self) -> Config:
        """The identity of the pool."""
        return self.lines[0].trainings[0].ranking["pool"]

    def examples(self) -> Rows:
        """The rows of the pool. Raises AbsentError: it is not configured, or its files are gone."""
        if self.configured is None:
            raise AbsentError("No pool was given to the report, so its rows cannot be shown.")
        try:
            same = describe(self.configured) == self.pool
            made = self.configured.annotations
            if same and isinstance(made, Made) and not self.store.path(made.stage).exists():
                raise AbsentError(f"Pool {self.comparison.pool} is no longer in the store.")
            if same:
                return self.configured.open(self.store)
        except PoolError as error:
            raise AbsentError(f"The pool cannot be opened: {error}.") from error
        raise AbsentError(
            f"The configured pool ({self.configured.name}) is not the one these scores were made "
            "from, so its rows cannot be shown; name the experiment that they were made with."
        )

    def rows_of(self, training: Training) -> Int[np.ndarray, " rows"]:
        """The rows of a training's subset. Raises AbsentError: they are gone."""
        folder = self.index.result(training.subset, "subset").folder
        return np.array(json.loads((folder / "rows.json").read_text()), dtype=np.int64)

    def xmas(self) -> Line:
        """The XMAS row at its largest budget. Raises AbsentError: there is none."""
        found = [line for line in self.subsets if line.selector == "xmas"]
        if not found:
            raise AbsentError("No target was trained on a subset of selector xmas.")
        return max(found, key=lambda line: line.row.rows[-1])


def evidence(
    comparison: Leaderboard, *, index: ResultIndex, store: Store, pool: Pool | None
) -> Evidence:
    """The trainings behind every row of a comparison, from the scores it was made of."""
    lines = [_line(row, index) for row in comparison.rows]
    return Evidence(comparison, tuple(lines), index, store, pool, certainties(comparison))


def _line(row: Row, index: ResultIndex) -> Line:
    trainings = []
    for seed in row.seeds:
        folder = next(run.folder for run in row.runs if run.seed == seed)
        arp = row.seed_arps[seed].get(ALL) if row.arp is not None else None
        trainings.append(Training(seed, arp, index.results[Path(folder).name].config["target"]))
    return Line(row, row.is_reference, tuple(trainings))
