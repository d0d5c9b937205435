"""What a store knows of a leaderboard's rows: certainty, trainings, costs, text length.

Gathered once here; `view` says what of it is shown, the table and the report render it.
"""

import dataclasses
import json
import math

import numpy as np
from jaxtyping import Int

from xmas.results.arp import ALL
from xmas.results.leaderboard import REFERENCE, Leaderboard
from xmas.results.leaderboard_rows import Cell, Row
from xmas.results.measured_costs import Cost, measured_cost
from xmas.results.published_results import PublishedResult, published_for
from xmas.results.statistics.intervals import Certainty, certainties
from xmas.store import Store
from xmas.store.index import AbsentError, Config, EmptyError, ResultIndex


@dataclasses.dataclass(frozen=True)
class Training:
    """One trained target of a row."""

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
    """A row of a leaderboard with all that is known of it."""

    row: Row
    certainty: Certainty
    trainings: tuple[Training, ...]  # by seed
    cost: Cost | None  # mean over the seeds; None: see `cost_absent`
    cost_absent: str  # why the cost is unknown
    cost_of_full: float | None  # by the reference's; None: one is unknown or on other devices
    osc_absent: str  # why `osc` is unknown
    length_r2: dict[int, float]  # by step: share of the trajectories that text length explains

    @property
    def selector(self) -> str:
        return self.row.selector

    @property
    def is_reference(self) -> bool:
        return self.row.is_reference

    @property
    def arp(self) -> Cell:
        """Raises ValueError: the row has none, `row.arp` is None."""
        if self.row.arp is None:
            raise ValueError(f"{self.row.label} has no ARP")
        return self.row.arp

    @property
    def osc(self) -> float | None:
        """PRISM's measure of what a selection is worth, from measured seconds.

        (P_full / P_sub) * (T_select + T_tune) / T_full, the performances P by ARP: below 1 the
        subset is a gain. None: see `osc_absent`. Source: PRISM (arXiv 2502.12119).
        """
        if self.osc_absent or self.cost_of_full is None:
            return None
        return 100 / self.arp.mean * self.cost_of_full

    @property
    def budget(self) -> str:
        """With its unit, for prose: the space before the per cent sign does not break."""
        return self.row.budget_text.replace(" %", "\N{NO-BREAK SPACE}%")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A leaderboard and what its store knows of it."""

    leaderboard: Leaderboard
    lines: tuple[Line, ...]  # in the order of the leaderboard's rows
    published: tuple[PublishedResult, ...]  # for the rows that are shown
    index: ResultIndex
    store: Store
    examined: Config | None = None  # the pool, where there are no rows

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
        if self.examined is not None:
            return self.examined
        return self.lines[0].trainings[0].ranking["pool"]

    @property
    def length_r2(self) -> dict[str, dict[int, float]]:
        """R² of the trajectories against text length by step, by label of the row."""
        return {line.row.label: line.length_r2 for line in self.lines if line.length_r2}

    def rows_of(self, training: Training) -> Int[np.ndarray, " rows"]:
        """The rows of a training's subset. Raises AbsentError: they are not in the store."""
        subset = self.index.result(training.subset, "subset")
        return np.array(json.loads(subset.file("rows.json").read_text()), dtype=np.int64)

    def xmas(self) -> Line:
        """The XMAS row at its largest budget. Raises EmptyError: there is none."""
        lines = [line for line in self.subsets if line.selector == "xmas"]
        if not lines:
            raise EmptyError("No subset of selector xmas.")
        return max(lines, key=lambda line: line.row.rows[-1])


def gather(
    leaderboard: Leaderboard,
    index: ResultIndex,
    store: Store,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Evidence:
    """All that the store knows of a leaderboard.

    Args:
        draws: of the bootstrap, with random generator seed `seed`.

    Raises:
        TableError: outcomes of questions are damaged or do not belong together.
    """
    reference: Cost | None = None
    lines = []
    certain = certainties(leaderboard, draws=draws, seed=seed)
    for row, certainty in zip(leaderboard.rows, certain, strict=True):
        trainings = tuple(_training(row, of_seed) for of_seed in row.seeds)
        cost, absent = _cost(trainings, index)
        reference = cost if row.is_reference and row.selector == REFERENCE else reference
        lines.append(
            Line(
                row=row,
                certainty=certainty,
                trainings=trainings,
                cost=cost,
                cost_absent=absent,
                cost_of_full=_of_full(cost, reference),
                osc_absent=_why_no_osc(row, cost, reference),
                length_r2=_length_r2(trainings[0], index),
            )
        )
    trained = [(row.selector, row.budget) for row in leaderboard.rows]
    published = tuple(published_for(leaderboard.pool, trained))
    return Evidence(leaderboard, tuple(lines), published, index, store)


def _training(row: Row, seed: int) -> Training:
    target = next(run.config for run in row.runs if run.seed == seed)
    return Training(seed, row.seed_arps[seed].get(ALL) if row.arp is not None else None, target)


def _cost(trainings: tuple[Training, ...], index: ResultIndex) -> tuple[Cost | None, str]:
    """The mean over the seeds; without one, why."""
    try:
        return Cost.mean([measured_cost(index, training.target) for training in trainings]), ""
    except AbsentError as error:
        return None, str(error)


def _why_no_osc(row: Row, cost: Cost | None, reference: Cost | None) -> str:
    """Why a row has no OSC; empty: it has one."""
    if cost is None:
        return "the seconds of its training are not in the store"
    if reference is None or not reference.total:
        return "the training on all rows was not measured"
    if _of_full(cost, reference) is None:
        devices = "; ".join(sorted(cost.devices))
        return f"measured on {devices}, the training on all rows on {'; '.join(reference.devices)}"
    if row.arp is None or row.arp.mean <= 0:
        return "no ARP above 0"
    return ""


def _of_full(cost: Cost | None, reference: Cost | None) -> float | None:
    """None too where both were measured on different devices, whose hours do not compare."""
    if cost is None or reference is None or not reference.total:
        return None
    same_device = len(cost.devices | reference.devices) <= 1
    return cost.total / reference.total if same_device else None


def _length_r2(training: Training, index: ResultIndex) -> dict[int, float]:
    """R² of the sum of the singular values, from the trajectories' own `statistics.json`.

    Selectors that use no trajectories have none.
    """
    by_step: dict[int, float] = {}
    for result in index.inside(training.target.get("subset")).values():
        if result.kind != "trajectories":
            continue
        path = result.file("statistics.json")
        if path.exists():
            steps = json.loads(path.read_text(encoding="utf-8"))
            shares = {
                int(step): float(of_step.get("r2_length", {}).get("sum", math.nan))
                for step, of_step in steps.items()
            }
            by_step = {step: share for step, share in shares.items() if not math.isnan(share)}
    return by_step
