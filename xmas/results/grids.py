"""The tables of a leaderboard, cell by cell: scores; ARP, ranks and cost; published numbers.

The table writes them as Markdown and LaTeX, the report as HTML.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from xmas.results import view
from xmas.results.arp import ALL
from xmas.results.evidence import Evidence, Line
from xmas.results.leaderboard_rows import Cell
from xmas.results.notes import about_scores
from xmas.results.view import GAP, LEVEL, SCORES, SUMMARY, TableColumn, TextCell, between, measured

_SOURCES = 8  # columns of a table by source


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table: every cell is text, the first column names its row."""

    title: str
    head: list[str]
    rows: list[list[TextCell]]
    notes: list[str]


def grids(evidence: Evidence, *, intervals: bool) -> Iterator[Grid]:
    """The tables of one leaderboard; `intervals`: in every cell of the first as well."""
    yield scores(evidence, intervals=intervals)
    yield summary(evidence)
    yield from by_source(evidence)
    if evidence.published:
        yield published(evidence)


def scores(evidence: Evidence, *, intervals: bool = False) -> Grid:
    """Mean and spread on every benchmark, and every ARP."""
    columns = _columns(SCORES)
    names = [*evidence.leaderboard.benchmarks, *evidence.leaderboard.averages]
    best = {name: _best([(line, _mean(line, name)) for line in evidence.subsets]) for name in names}
    rows = []
    for line in evidence.lines:
        cells = [column.cell(line) for column in columns]
        bounds = line.certainty.scores | line.certainty.arps if intervals else {}
        for name in names:
            mean = _mean(line, name)
            cell = measured(mean, line.row, bounds.get(name))
            is_best = mean is not None and best[name].get(line.row.budget_text) == mean.mean
            cells.append(dataclasses.replace(cell, best=is_best and not line.is_reference))
        rows.append(cells)
    head = [*(column.title for column in columns), *names]
    return Grid(_heading(evidence), head, rows, about_scores(evidence))


def summary(evidence: Evidence) -> Grid:
    """ARP with its interval, compared with random, its ranks, and what it costs."""
    head, rows = [], [[] for _ in evidence.lines]
    for column in _columns(SUMMARY):
        head += [column.title, LEVEL] if column.interval else [column.title]
        for cells, line in zip(rows, evidence.lines, strict=True):
            cells.append(column.cell(line))
            if column.interval:
                cells.append(TextCell(between(column.interval(line))))
    notes = [note for column in view.COLUMNS for note in column.notes(evidence)]
    return Grid(f"{_heading(evidence)}: ARP and cost", head, rows, notes)


def by_source(evidence: Evidence) -> Iterator[Grid]:
    """Scores on the questions of each source, of every benchmark that has several."""
    columns = [column for column in _columns(SCORES) if column.name in ("selector", "budget")]
    for name, run in evidence.leaderboard.benchmarks.items():
        ordered = sorted(run.sources, key=lambda source: (-run.sources[source][1], source))
        if len(ordered) < 2:
            continue
        rows = []
        for line in evidence.lines:
            cells, of_sources = [column.cell(line) for column in columns], line.row.sources(name)
            cells += [measured(of_sources.get(source), line.row) for source in ordered[:_SOURCES]]
            rows.append(cells)
        head = [*(column.title for column in columns), *ordered[:_SOURCES]]
        counts = ", ".join(f"{source} {run.sources[source][1]:,}" for source in ordered[:_SOURCES])
        notes = [f"Questions: {counts}"]
        if len(ordered) > _SOURCES:
            rest = len(ordered) - _SOURCES
            notes.append(f"{rest} sources with fewer questions are in table.csv")
        yield Grid(f"{_heading(evidence)}: {name} by source", head, rows, notes)


def published(evidence: Evidence) -> Grid:
    """Published numbers for the rows that are shown; nothing here was measured in this store."""
    names = dict.fromkeys(name for result in evidence.published for name in result.scores)
    ordered = [name for name in names if name not in (ALL, "total_of_full")]
    head = ["method", "budget", *ordered, ALL, "total / full", "ARP here", "target", "kind"]
    rows, notes = [], []
    here = {(line.selector, round(line.row.budget, 9)): line for line in evidence.lines
            if line.row.arp}  # fmt: skip
    for number, result in enumerate(evidence.published, start=1):
        line = here.get((result.selector, round(result.budget, 9)))
        numbers = [result.scores.get(name) for name in [*ordered, ALL, "total_of_full"]]
        cells = [
            f"{result.method} [{number}]",
            f"{100 * result.budget:g} %",
            *(GAP if value is None else f"{value:g}" for value in numbers),
            GAP if line is None else str(measured(line.row.arp, line.row)),
            result.target,
            result.kind,
        ]
        rows.append([TextCell(cell) for cell in cells])
        notes.append(f"[{number}] {'; '.join([result.source, *result.notes])}")
    first = (
        "Published, NOT measured here: other targets, benchmarks, judges and references; none of "
        "these numbers enters a mean, a rank or an interval above"
    )
    return Grid(f"{_heading(evidence)}: published", head, rows, [first, *notes])


def _columns(table: str) -> list[TableColumn]:
    return [column for column in view.COLUMNS if table in column.tables and column.heading]


def _mean(line: Line, name: str) -> Cell | None:
    """Of a benchmark or of an average."""
    return line.row.scores.get(name) or line.row.arps.get(name)


def _best(means: Sequence[tuple[Line, Cell | None]]) -> dict[str, float]:
    """The highest mean of every budget; none where all are the same, since then nothing is best."""
    by_budget: dict[str, list[float]] = {}
    for line, mean in means:
        if mean is not None:
            by_budget.setdefault(line.row.budget_text, []).append(mean.mean)
    return {budget: max(of) for budget, of in by_budget.items() if max(of) > min(of)}


def _heading(evidence: Evidence) -> str:
    leaderboard = evidence.leaderboard
    return f"Pool {leaderboard.pool}, reference {leaderboard.reference_group}"
