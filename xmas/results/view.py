"""What outputs show of a leaderboard row: one entry in `COLUMNS` for every quantity.

An entry appears in the table as Markdown, LaTeX and CSV, in the DataFrame and the W&B table made of
the CSV, and in the report. `notes` are the sentences below the tables, `grids` puts both together.
"""

import dataclasses
from collections.abc import Callable, Iterable

from xmas.evaluation.protocol import decimals
from xmas.results.arp import ALL
from xmas.results.evidence import Evidence, Line
from xmas.results.leaderboard_rows import Cell, Row
from xmas.results.notes import (
    about_arp,
    about_baseline,
    about_hours,
    about_length,
    about_osc,
    about_ranks,
    about_validation,
)
from xmas.results.statistics.bootstrap import Interval
from xmas.results.statistics.intervals import BASELINE, Difference

GAP = "\N{EN DASH}"
SCORES, SUMMARY = "scores", "summary"  # the tables: a column a benchmark; ARP, ranks and cost
LEVEL = "95 %"  # heading of a column of intervals

Value = float | int | str | None


@dataclasses.dataclass(frozen=True)
class TextCell:
    """A cell of a table as text; HTML sets the spread apart and the best of a budget in bold."""

    text: str
    spread: str = ""  # " ± 2.8"
    suffix: str = ""  # " (1 of 2)", " [55.1 to 58.9]"
    best: bool = False

    def __str__(self) -> str:
        return self.text + self.spread + self.suffix


@dataclasses.dataclass(frozen=True)
class TableColumn:
    """A quantity of a leaderboard row.

    Args:
        name: of the field in `table.csv`; empty: the field is not there, or has other sources.
        value: at full precision, None where it is unknown.
        heading: in Markdown, LaTeX and HTML; empty: only in files for programs.
        unit: appended to the heading.
        format: a format of the value, or what makes the cell.
        interval: fields NAME_low and NAME_high, and one more column after this one.
        notes: sentences below the tables about the column.
        tables: that show the column. Those in `SCORES` identify the row: every line of the CSV has
            them, others are on the line of the row's ARP.
    """

    name: str
    value: Callable[[Line], Value]
    heading: str = ""
    unit: str = ""
    format: str | Callable[[Line], TextCell | str] = "{}"
    interval: Callable[[Line], Interval | None] | None = None
    notes: Callable[[Evidence], Iterable[str]] = lambda evidence: ()
    tables: tuple[str, ...] = (SUMMARY,)

    @property
    def title(self) -> str:
        return f"{self.heading} {self.unit}".rstrip()

    def cell(self, line: Line) -> TextCell:
        """The value of a row as text, a dash where it is unknown."""
        if callable(self.format):
            cell = self.format(line)
            return cell if isinstance(cell, TextCell) else TextCell(cell)
        value = self.value(line)
        return TextCell(GAP if value is None else self.format.format(value))

    def fields(self, line: Line) -> dict[str, Value]:
        """The fields of the CSV."""
        if not self.name:
            return {}
        bounds = interval_fields(self.name, self.interval(line)) if self.interval else {}
        return {self.name: self.value(line), **bounds}

    @property
    def field_names(self) -> tuple[str, ...]:
        bounds = (f"{self.name}_low", f"{self.name}_high") if self.interval else ()
        return (self.name, *bounds) if self.name else ()


def measured(cell: Cell | None, row: Row, interval: Interval | None = None) -> TextCell:
    """Mean and spread; the number of seeds where some are missing; the interval if given."""
    if cell is None:
        return TextCell(GAP)
    places = decimals(cell.mean)
    spread = "" if cell.sd is None else f" ± {cell.sd:.{places}f}"
    some = "" if cell.seeds == len(row.seeds) else f" ({cell.seeds} of {len(row.seeds)})"
    within = "" if interval is None else f" [{between(interval, places)}]"
    return TextCell(f"{cell.mean:.{places}f}", spread, some + within)


def between(interval: Interval | None, places: int = 1) -> str:
    """An interval as text."""
    if interval is None:
        return GAP
    return f"{interval.low:.{places}f} to {interval.high:.{places}f}"


def interval_fields(name: str, interval: Interval | None) -> dict[str, Value]:
    """An interval as fields of the CSV."""
    return {} if interval is None else {f"{name}_low": interval.low, f"{name}_high": interval.high}


def _span(row: Row, form: str) -> str:
    return "-".join(form.format(count) for count in sorted({row.rows[0], row.rows[-1]}))


def _against(line: Line) -> Difference | None:
    return line.certainty.against


def _adjusted(line: Line) -> Value:
    return against.adjusted if (against := _against(line)) else None


def _p(line: Line) -> str:
    """With a star where it is significant."""
    against = _against(line)
    if against is None or against.adjusted is None:
        return GAP
    return f"{against.adjusted:.3f}" + ("*" if against.significant else "")


def _selection_hours(line: Line) -> float | None:
    return line.cost.selection / 3600 if line.cost else None


def _training_hours(line: Line) -> float | None:
    return line.cost.seconds["target"] / 3600 if line.cost else None


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _hours(of: Callable[[Line], float | None]) -> Callable[[Line], str]:
    def text(line: Line) -> str:
        hours = of(line)
        return GAP if hours is None else f"{hours:.1f}" if hours >= 10 else f"{hours:.3f}"

    return text


_BOTH = (SCORES, SUMMARY)

COLUMNS: tuple[TableColumn, ...] = (
    TableColumn("selector", lambda line: line.row.label, "selector", tables=_BOTH),
    TableColumn(
        "budget",
        lambda line: line.row.budget,
        "budget",
        format=lambda line: line.row.budget_text,
        tables=_BOTH,
    ),
    TableColumn(
        "unit", lambda line: "" if line.row.budget <= 1 else line.row.unit, tables=(SCORES,)
    ),
    TableColumn(
        "rows",
        lambda line: _span(line.row, "{}"),
        "rows",
        format=lambda line: _span(line.row, "{:,}"),
        tables=(SCORES,),
    ),
    TableColumn(  # the CSV counts the seeds of every score
        "", lambda line: len(line.row.seeds), "seeds", tables=_BOTH
    ),
    TableColumn(  # the CSV has every ARP in its own line
        "",
        lambda line: line.arp.mean if line.row.arp else None,
        ALL,
        format=lambda line: measured(line.row.arp, line.row),
        interval=lambda line: line.certainty.arps.get(ALL),
        notes=about_arp,
    ),
    TableColumn(
        "above_random",
        lambda line: against.points if (against := _against(line)) else None,
        f"vs {BASELINE}",
        format="{:+.1f}",
        interval=lambda line: against.interval if (against := _against(line)) else None,
        notes=about_baseline,
    ),
    TableColumn("p", lambda line: against.p if (against := _against(line)) else None),
    TableColumn("p_holm", _adjusted, "p", format=_p),
    TableColumn("rank", lambda line: line.row.rank, "rank", format="{:g}", notes=about_ranks),
    TableColumn("mean_rank", lambda line: line.row.mean_rank, "mean rank", format="{:.1f}"),
    TableColumn(
        "selection_hours",
        _selection_hours,
        "selection",
        "h",
        format=_hours(_selection_hours),
        notes=about_hours,
    ),
    TableColumn("training_hours", _training_hours, "training", "h", format=_hours(_training_hours)),
    TableColumn("total_of_full", lambda line: line.cost_of_full, "total / full", format="{:.2f}"),
    TableColumn("osc", lambda line: line.osc, "OSC", format="{:.2f}", notes=about_osc),
    TableColumn("nested", lambda line: _yes(line.row.nested), "nested"),
    TableColumn(
        "saw_validation",
        lambda line: _yes(line.row.saw_validation),
        "saw validation data",
        notes=about_validation,
    ),
    TableColumn(
        "devices", lambda line: "; ".join(sorted(line.cost.devices)) if line.cost else None
    ),
    TableColumn(
        "r2_length",
        lambda line: " ".join(f"{step}:{share:.4f}" for step, share in line.length_r2.items()),
        notes=about_length,
    ),
)
