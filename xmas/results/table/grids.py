"""What is shown of a comparison, cell by cell: scores; ARP and what it costs; published numbers."""

from collections.abc import Iterator

from xmas.results.arp import ALL
from xmas.results.leaderboard import Leaderboard
from xmas.results.leaderboard_rows import Cell, Row
from xmas.results.measured_costs import Cost
from xmas.results.statistics.bootstrap import Interval
from xmas.results.statistics.intervals import BASELINE, Difference
from xmas.results.table.evidence import Evidence
from xmas.results.table.formats import GAP, Grid
from xmas.results.table.notes import of_scores, of_standing


def grids(found: Evidence, *, intervals: bool) -> Iterator[Grid]:
    """The tables of one comparison; `intervals`: in every cell of the first as well."""
    yield scores(found, intervals=intervals)
    yield standing(found)
    if found.published:
        yield beside(found)


def scores(found: Evidence, *, intervals: bool) -> Grid:
    """Mean and spread on every benchmark, and every ARP."""
    comparison = found.comparison
    names, means = [*comparison.benchmarks], [*comparison.averages]
    rows = []
    for row, known in zip(comparison.rows, found.certainties, strict=True):
        cells = [(row.scores.get(name), known.scores.get(name)) for name in names]
        cells += [(row.arps.get(name), known.arps.get(name)) for name in means]
        shown = [cell(mean, row, held if intervals else None) for mean, held in cells]
        rows.append([*_about(row), *shown])
    return Grid(_heading(comparison), [*_ABOUT, *names, *means], rows, of_scores(found))


def standing(found: Evidence) -> Grid:
    """ARP with its interval, beside random, its ranks, and what it costs."""
    head = [
        "selector", "budget", "seeds", ALL, "95 %", f"vs {BASELINE}", "95 %", "p", "rank",
        "mean rank", "selection h", "training h", "total / full",
    ]  # fmt: skip
    rows = []
    comparison = found.comparison
    for number, (row, known) in enumerate(zip(comparison.rows, found.certainties, strict=True)):
        about = [row.label, row.budget_text, str(len(row.seeds)), cell(row.arp, row)]
        of_full = found.of_full(number)
        rows.append(
            [
                *about,
                bounds(known.arps.get(ALL)),
                *_against(known.against),
                _number(row.rank, "{:g}"),
                _number(row.mean_rank, "{:.1f}"),
                *_hours(found.costs[number]),
                _number(of_full, "{:.2f}"),
            ]
        )
    return Grid(f"{_heading(comparison)}: ARP and cost", head, rows, of_standing(found))


def beside(found: Evidence) -> Grid:
    """Published numbers for the rows that are shown; nothing here was measured in this store."""
    names = dict.fromkeys(name for one in found.published for name in one.scores)
    ordered = [name for name in names if name not in (ALL, "total_of_full")]
    head = ["method", "budget", *ordered, ALL, "total / full", "ARP here", "target", "kind"]
    rows, notes = [], []
    measured = {
        (row.selector, round(row.budget, 9)): row for row in found.comparison.rows if row.arp
    }
    for number, one in enumerate(found.published, start=1):
        here = measured.get((one.selector, round(one.budget, 9)))
        shown = [_number(one.scores.get(name), "{:g}") for name in [*ordered, ALL, "total_of_full"]]
        said = cell(here.arp, here) if here is not None else GAP
        budget = f"{100 * one.budget:g} %"
        rows.append([f"{one.method} [{number}]", budget, *shown, said, one.target, one.kind])
        notes.append(f"[{number}] {'; '.join([one.source, *one.notes])}")
    first = (
        "Published, NOT measured here: other targets, benchmarks, judges and references stand "
        "behind these numbers; none of them enters a mean, a rank or an interval above"
    )
    return Grid(f"{_heading(found.comparison)}: published", head, rows, [first, *notes])


_ABOUT = ("selector", "budget", "rows", "seeds")


def _about(row: Row) -> list[str]:
    return [row.label, row.budget_text, span(row, "{:,}"), str(len(row.seeds))]


def cell(mean: Cell | None, row: Row, held: Interval | None = None) -> str:
    """Mean and spread; how many seeds there are where some are missing; the interval if given."""
    if mean is None:
        return GAP
    spread = "" if mean.sd is None else f" ± {mean.sd:.1f}"
    some = "" if mean.seeds == len(row.seeds) else f" ({mean.seeds} of {len(row.seeds)})"
    within = "" if held is None else f" [{bounds(held)}]"
    return f"{mean.mean:.1f}{spread}{some}{within}"


def bounds(held: Interval | None) -> str:
    return GAP if held is None else f"{held.low:.1f} to {held.high:.1f}"


def span(row: Row, form: str) -> str:
    return "-".join(form.format(count) for count in sorted({row.rows[0], row.rows[-1]}))


def _number(value: float | None, form: str) -> str:
    return GAP if value is None else form.format(value)


def _against(difference: Difference | None) -> list[str]:
    """Points above random, their interval, and p; a star where it is significant."""
    if difference is None:
        return [GAP] * 3
    star = "*" if difference.significant else ""
    p = _number(difference.adjusted, "{:.3f}") + star
    return [f"{difference.points:+.1f}", bounds(difference.interval), p]


def _hours(spent: Cost | None) -> list[str]:
    if spent is None:
        return [GAP, GAP]
    hours = (spent.selection / 3600, spent.seconds["target"] / 3600)
    return [f"{each:.1f}" if each >= 10 else f"{each:.3f}" for each in hours]


def _heading(comparison: Leaderboard) -> str:
    return f"Pool {comparison.pool}, reference {comparison.reference_group}"
