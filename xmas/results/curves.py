"""The curves of a leaderboard: ARP against budget, and ARP against cost.

The report and the dashboard draw the same curves from the entries here. They cannot share a
renderer: the report is drawn once, as SVG from numbers, in a page without scripts; a chart of the
dashboard is a Vega-Lite specification without numbers, which W&B fills with the table that
`goal=table logger=wandb` logged. So a curve names its fields in `table.csv` for the one, and
computes the same points from the evidence for the other. Colours are the renderers': the report's
follow the colour scheme of the reader, W&B's are those of the runs.
"""

import dataclasses
from collections.abc import Callable, Sequence

from xmas.results.arp import ALL
from xmas.results.evidence import Evidence, Line
from xmas.results.statistics.bootstrap import Interval


@dataclasses.dataclass(frozen=True)
class Curve:
    """One curve for every selector: ARP against a quantity of its rows, joined from left to right.

    Args:
        name: of the chart.
        x: fields of `table.csv` whose sum is the place of a point.
        x_title: of the axis.
        place: of a point, from a row; None: the row has no point. In the unit of the fields.
        interval: whether points have their 95 % interval.
        starts_at_zero: whether the horizontal axis does.
    """

    name: str
    title: str
    x: tuple[str, ...]
    x_title: str
    place: Callable[[Line], float | None]
    interval: bool
    starts_at_zero: bool

    y: str = "relative"  # fields of table.csv, of the lines of benchmark `ALL`
    y_title: str = "ARP, % of full"


@dataclasses.dataclass(frozen=True)
class Point:
    """One row of the leaderboard on a curve."""

    line: Line
    x: float
    y: float
    interval: Interval | None


BUDGET = Curve(
    name="xmas-budget",
    title="ARP against budget",
    x=("budget",),
    x_title="budget",
    place=lambda line: line.row.budget,
    interval=True,
    starts_at_zero=False,
)
COST = Curve(
    name="xmas-cost",
    title="ARP against device hours",
    x=("selection_hours", "training_hours"),
    x_title="device hours of selection and training",
    place=lambda line: line.cost.total / 3600 if line.cost else None,
    interval=False,
    starts_at_zero=True,
)
CURVES = (BUDGET, COST)


def series(evidence: Evidence, curve: Curve) -> dict[str, list[Point]]:
    """The points of every selector by its label (settings apart), from small to large budgets."""
    by_label: dict[str, list[Point]] = {}
    for line in sorted(evidence.subsets, key=lambda line: line.row.rows[-1]):
        x = curve.place(line)
        if line.row.arp is None or x is None:
            continue
        interval = line.certainty.arps.get(ALL) if curve.interval else None
        point = Point(line, x, line.row.arp.mean, interval)
        by_label.setdefault(line.row.label, []).append(point)
    return by_label


def heights(points: Sequence[Point]) -> list[float]:
    """Every mean, and 100, the reference's: what a vertical axis has to contain."""
    return [*(point.y for point in points), 100.0]
