"""Scores: what is said first, the table, and where every training stands beside the reference."""

from itertools import groupby

from xmas.results.arp import reasons
from xmas.results.leaderboard import Leaderboard
from xmas.results.leaderboard_rows import Cell, Row, not_nested
from xmas.results.report.evidence import Evidence, Line
from xmas.results.report.palette import Palette
from xmas.results.report.svg import (
    Scale,
    axis,
    figure,
    percent,
    scrolled_table,
    tag,
    text,
    track,
    vertical,
)
from xmas.store.index import AbsentError

_HEIGHT = 26  # of a track, in pixels
_GAP = "\N{EN DASH}"


def summary(found: Evidence) -> str:
    """The outcome in a paragraph, and how much of it to believe."""
    comparison = found.comparison
    scored = [line for line in found.largest if line.row.arp is not None]
    if not scored:
        return tag(
            "p",
            f"Pool <b>{text(comparison.pool)}</b> has scores of {len(found.lines)} kinds of "
            "training, but none of a subset can be related to a target trained on the whole pool; "
            "the notes below the table say why.",
            class_="lead",
        )
    best = max(scored, key=lambda line: line.arp.mean)
    said = [
        f"On pool <b>{text(comparison.pool)}</b>, with {best.budget} of it "
        f"({best.row.rows[-1]:,} rows), <b>{text(best.row.label)}</b> gives the best target: "
        f"{best.arp.mean:.1f}\N{NO-BREAK SPACE}% of the scores of training on everything (ARP)."
    ]
    baseline = next((line for line in scored if line.selector == "random"), None)
    if baseline is None:
        said.append("There is no random subset of this size to hold it against.")
    elif baseline is best:
        said.append("No method beats a random choice here.")
    else:
        ahead = best.arp.mean - baseline.arp.mean
        said.append(
            f"A random subset of that size reaches {baseline.arp.mean:.1f}\N{NO-BREAK SPACE}%, "
            f"{ahead:.1f} points less."
        )
    said.append(_doubt(scored, best, baseline))
    if "DemoPool" in str(found.pool):
        said.append(
            "The demo pool is drawn, and its models are tiny: these numbers show that the "
            "parts work together, and say nothing about the claims of any paper."
        )
    return tag("p", " ".join(said), class_="lead")


def _doubt(scored: list[Line], best: Line, baseline: Line | None) -> str:
    """What the number of seeds allows to say."""
    counts = sorted({line.arp.seeds for line in scored})
    if counts[0] == 1:
        return (
            "At least one of these has a single seed, so differences of a few points are noise "
            "until more seeds say otherwise."
        )
    spreads = [line.arp.sd or 0.0 for line in (best, baseline) if line is not None]
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    widest = max(spreads)
    if baseline is None or baseline is best:
        return f"Seeds: {seeds} each; over them the best varies by ± {widest:.1f}."
    clear = best.arp.mean - baseline.arp.mean > 2 * widest
    return f"Over {seeds} seeds each, ARP varies by up to ± {widest:.1f}: the lead is " + (
        "more than twice that." if clear else "not clear of it."
    )


def table(found: Evidence) -> str:
    """All numbers; the best of every budget in bold."""
    comparison = found.comparison
    names = [*comparison.benchmarks, "ARP"]
    head = ["selector", "budget", "rows", "seeds", *map(text, names)]
    best = {
        (budget, name): _best([_cell(row, name) for row in rows])
        for budget, rows in _by_budget(found)
        for name in names
    }
    rows = []
    for line in found.lines:
        row = line.row
        cells = []
        for name in names:
            cell = _cell(row, name)
            shown = _shown(cell, row)
            first = cell is not None and best.get((row.budget, name)) == cell.mean
            cells.append(tag("b", shown) if first and not line.is_reference else shown)
        trained = _GAP.join(f"{count:,}" for count in sorted({row.rows[0], row.rows[-1]}))
        rows.append([text(row.label), line.budget, trained, str(len(row.seeds)), *cells])
    notes = [tag("li", text(note)) for note in _notes(comparison)]
    return scrolled_table(head, rows, "scores") + tag("ul", *notes, class_="notes")


def _by_budget(found: Evidence) -> list[tuple[float, list[Row]]]:
    rows = [line.row for line in found.subsets]
    return [(budget, list(group)) for budget, group in groupby(rows, lambda row: row.budget)]


def _best(cells: list[Cell | None]) -> float | None:
    """The highest mean; None where all are the same, since then nothing is best."""
    means = [cell.mean for cell in cells if cell is not None]
    return max(means) if means and max(means) > min(means) else None


def _cell(row: Row, name: str) -> Cell | None:
    return row.arp if name == "ARP" else row.scores.get(name)


def _shown(cell: Cell | None, row: Row) -> str:
    if cell is None:
        return _GAP
    spread = "" if cell.sd is None else tag("span", f" ± {cell.sd:.1f}", class_="sd")
    some = "" if cell.seeds == len(row.seeds) else f" ({cell.seeds} of {len(row.seeds)})"
    return f"{cell.mean:.1f}{spread}{some}"


def _notes(comparison: Leaderboard) -> list[str]:
    asked = ", ".join(
        f"{name} {run.num:,} ({run.metric})" for name, run in comparison.benchmarks.items()
    )
    notes = [
        f"Questions: {asked}.",
        "Mean ± standard deviation over the seeds; bold: the best of its budget. ARP is the mean "
        "over the benchmarks of 100 · score / score of the reference.",
    ]
    if comparison.unreferenced:
        notes.append(
            "No ARP: no score above 0 of a target trained on the whole pool, the reference, on "
            f"{', '.join(comparison.unreferenced)}; goal=scores trains it."
        )
    if note := not_nested(comparison.rows):
        notes.append(f"{note}.")
    for row in comparison.rows:
        for seed in row.gaps:
            for reason in reasons([*comparison.benchmarks], {seed: row.gaps[seed]}, ()):
                notes.append(f"No ARP for {row.label}: {reason}.")
    return notes


def dots(found: Evidence, palette: Palette) -> str:
    """ARP of every selector and budget. Raises AbsentError: no row has one."""
    shown = [line for line in found.subsets if line.row.arp is not None]
    if not shown:
        raise AbsentError("No figure: no subset has an ARP, see the notes above.")
    reached = [one.arp for line in shown for one in line.trainings if one.arp is not None]
    scale = Scale.around([*reached, 100.0])
    blocks = []
    for budget, lines in groupby(shown, lambda line: line.budget):
        members = list(lines)
        random = next((line for line in members if line.selector == "random"), None)
        behind = vertical(scale(100), "full")
        if random is not None:
            behind += vertical(scale(random.arp.mean), "random")
        blocks.append(tag("h4", f"{budget} of the pool" if "%" in budget else budget))
        ordered = sorted(members, key=lambda line: -line.arp.mean)
        blocks.extend(_strip(line, behind, scale, palette) for line in ordered)
    ends = axis(scale) + tag("span")
    blocks.append(tag("div", tag("span"), ends, class_="row foot"))
    return figure(
        tag("div", *blocks, class_="rows"),
        "Small dots are seeds, the large one their mean. Solid line: the target trained on "
        "everything, 100 by definition. Dashed line: the mean of random subsets of the same size; "
        "a method earns its cost to the right of it.",
    )


def _strip(line: Line, behind: str, scale: Scale, palette: Palette) -> str:
    colour = palette[line.selector]
    middle = _HEIGHT / 2
    mean = line.arp
    seeds = [
        tag("circle", cx=percent(scale(one.arp)), cy=middle, r="3.5", class_=f"seed {colour}")
        for one in line.trainings
        if one.arp is not None and mean.seeds > 1
    ]
    marks = track(
        behind,
        *seeds,
        tag("circle", cx=percent(scale(mean.mean)), cy=middle, r="6", class_=f"mean {colour}"),
        height=_HEIGHT,
        label=f"{line.row.label}, {line.budget}: ARP {mean.mean:.1f}",
    )
    name = tag("span", text(line.row.label), class_=f"name {colour}")
    return tag(
        "div", name, marks, tag("span", _shown(mean, line.row), class_="value"), class_="row"
    )
