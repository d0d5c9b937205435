"""What is shown of a comparison beside its means: intervals, costs, length, published numbers."""

import dataclasses
import json
import math

from xmas.results.leaderboard import Leaderboard
from xmas.results.leaderboard_rows import Row
from xmas.results.measured_costs import Cost, measured_cost
from xmas.results.published_results import PublishedResult, published_for
from xmas.results.statistics.intervals import Certainty, certainties
from xmas.store.index import AbsentError, ResultIndex


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A comparison with, row by row, what is known of it."""

    comparison: Leaderboard
    certainties: tuple[Certainty, ...]
    costs: tuple[Cost | None, ...]  # means over the seeds; None: a target is not in the store
    lengths: dict[str, dict[int, float]]  # R² by step, by selector: see `lengths_of`
    published: tuple[PublishedResult, ...]

    def of_full(self, number: int) -> float | None:
        """The cost of a row by that of the reference; None where one is unknown, or where they
        were measured on different devices, whose hours do not compare.
        """
        whole, own = self.costs[0], self.costs[number]
        if not self.comparison.rows[0].is_reference or whole is None or own is None:
            return None
        if len(whole.devices | own.devices) > 1 or not whole.total:
            return None
        return own.total / whole.total


def evidence(comparison: Leaderboard, index: ResultIndex, *, draws: int, seed: int) -> Evidence:
    """Raises TableError: outcomes of questions are damaged or do not belong together."""
    rows = comparison.rows
    return Evidence(
        comparison,
        certainties(comparison, draws=draws, seed=seed),
        tuple(_cost(row, index) for row in rows),
        lengths_of(rows, index),
        tuple(published_for(comparison.pool, [(row.selector, row.budget) for row in rows])),
    )


def lengths_of(rows: tuple[Row, ...], index: ResultIndex) -> dict[str, dict[int, float]]:
    """How much of a selector's trajectories text length alone explains, by row label and step.

    R² of the sum of the singular values, from the trajectories' own `statistics.json`. Selectors
    that look at no snapshot have none.
    """
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        ranking = row.runs[0].config.get("subset", {}).get("ranking", {})
        for result in index.inside(ranking.get("selector", {})).values():
            path = result.folder / "statistics.json"
            if result.kind == "trajectories" and path.exists():
                steps = json.loads(path.read_text(encoding="utf-8"))
                shares = {
                    int(step): float(said.get("r2_length", {}).get("sum", math.nan))
                    for step, said in steps.items()
                }
                known = {step: share for step, share in shares.items() if not math.isnan(share)}
                found[row.label] = known
    return {label: shares for label, shares in found.items() if shares}


def _cost(row: Row, index: ResultIndex) -> Cost | None:
    """The mean over the row's seeds."""
    targets = {run.seed: run.config for run in row.runs}
    try:
        return Cost.mean([measured_cost(index, target) for target in targets.values()])
    except AbsentError:
        return None
