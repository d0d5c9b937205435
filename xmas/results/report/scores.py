"""Scores: the outcome in words, the tables, and every training's ARP next to the reference's."""

from collections.abc import Iterator
from itertools import groupby

from xmas.results import grids
from xmas.results.evidence import Evidence, Line
from xmas.results.leaderboard import BASE, REFERENCE
from xmas.results.report.html_table import cell_markup, html_table
from xmas.results.report.palette import Palette
from xmas.results.report.svg import (
    Scale,
    axis,
    figure,
    joined,
    percent,
    tag,
    text,
    track,
    vertical,
)
from xmas.results.statistics.intervals import BASELINE
from xmas.results.view import measured
from xmas.store.index import AbsentError

_REFERENCES = {REFERENCE: "of training on everything", BASE: "of its start point, untrained"}
_HEIGHT = 26  # of a track, in pixels


def outcome(evidence: Evidence) -> str:
    """The outcome in a paragraph, and how much of it to believe."""
    leaderboard = evidence.leaderboard
    scored = [line for line in evidence.largest if line.row.arp is not None]
    if not scored:
        return tag(
            "p",
            "Pool ",
            tag("b", leaderboard.pool),
            f" has scores of {len(evidence.lines)} kinds of "
            "training, but none of a subset can be related to a target trained on the whole pool; "
            "the notes below the table say why.",
            class_="lead",
        )
    best = max(scored, key=lambda line: line.arp.mean)
    claim = (
        "On pool ",
        tag("b", leaderboard.pool),
        f", with {best.budget} of it ({best.row.rows[-1]:,} rows), ",
        tag("b", best.row.label),
        " gives the best target: "
        f"{best.arp.mean:.1f}\N{NO-BREAK SPACE}% of the scores "
        f"{_REFERENCES[evidence.lines[0].selector]} (ARP).",
    )
    sentences: list[str] = [joined(claim)]
    baseline = next((line for line in scored if line.selector == BASELINE), None)
    if baseline is None:
        sentences.append("There is no random subset of this size to compare it with.")
    elif baseline is best:
        sentences.append("No method beats a random choice here.")
    else:
        ahead = best.arp.mean - baseline.arp.mean
        sentences.append(
            f"A random subset of that size reaches {baseline.arp.mean:.1f}\N{NO-BREAK SPACE}%, "
            f"{ahead:.1f} points less."
        )
        sentences += _certain(best)
    sentences.append(_doubt(scored, best, baseline))
    if "DemoPool" in str(evidence.pool):
        sentences.append(
            "The demo pool is drawn, and its models are tiny: these numbers show that the "
            "parts work together, and say nothing about the claims of any paper."
        )
    return tag("p", joined(sentences, " "), class_="lead")


def _certain(best: Line) -> Iterator[str]:
    """The interval of the difference from random, and what the subset cost."""
    difference = best.certainty.against
    if difference is not None and (interval := difference.interval) is not None:
        apart = "" if interval.low > 0 else ": the two cannot be told apart"
        yield (
            f"The difference is {difference.points:.1f} points "
            f"[{interval.low:.1f}, {interval.high:.1f}]{apart}."
        )
    if best.cost_of_full is not None:
        yield f"Choosing and training took {best.cost_of_full:.2f} of the hours of full training."


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


def table(evidence: Evidence) -> str:
    """Mean and spread of all scores and ARPs; the best of every budget in bold."""
    return html_table(grids.scores(evidence))


def summary_table(evidence: Evidence) -> str:
    """ARP with its interval, compared with random, its ranks, and what it costs."""
    return tag("h4", "ARP and cost") + html_table(grids.summary(evidence))


def source_tables(evidence: Evidence) -> str:
    """Scores by source of the questions, of benchmarks that have several."""
    parts = [tag("h4", text(grid.title.rpartition(": ")[2])) + html_table(grid)
             for grid in grids.by_source(evidence)]  # fmt: skip
    return joined(parts)


def dots(evidence: Evidence, palette: Palette) -> str:
    """ARP of every selector and budget. Raises AbsentError: no row has one."""
    lines = [line for line in evidence.subsets if line.row.arp is not None]
    if not lines:
        raise AbsentError("No figure: no subset has an ARP, see the notes above.")
    arps = [
        training.arp for line in lines for training in line.trainings if training.arp is not None
    ]
    scale = Scale.around([*arps, 100.0])
    blocks = []
    for budget, group in groupby(lines, lambda line: line.budget):
        members = list(group)
        baseline = next((line for line in members if line.selector == BASELINE), None)
        marks = vertical(scale(100), "full")
        if baseline is not None:
            marks += vertical(scale(baseline.arp.mean), "random")
        blocks.append(tag("h4", f"{budget} of the pool" if "%" in budget else budget))
        ordered = sorted(members, key=lambda line: -line.arp.mean)
        blocks.extend(_strip(line, marks, scale, palette) for line in ordered)
    ends = axis(scale) + tag("span")
    blocks.append(tag("div", tag("span"), ends, class_="row foot"))
    return figure(
        tag("div", *blocks, class_="rows"),
        "Small dots are seeds, the large one their mean. Solid line: the target trained on "
        "everything, 100 by definition. Dashed line: the mean of random subsets of the same size; "
        "a method earns its cost to the right of it.",
    )


def _strip(line: Line, verticals: str, scale: Scale, palette: Palette) -> str:
    colour = palette[line.selector]
    middle = _HEIGHT / 2
    mean = line.arp
    seeds = [
        tag("circle", cx=percent(scale(training.arp)), cy=middle, r="3.5", class_=f"seed {colour}")
        for training in line.trainings
        if training.arp is not None and mean.seeds > 1
    ]
    marks = track(
        verticals,
        *seeds,
        tag("circle", cx=percent(scale(mean.mean)), cy=middle, r="6", class_=f"mean {colour}"),
        height=_HEIGHT,
        label=f"{line.row.label}, {line.budget}: ARP {mean.mean:.1f}",
    )
    name = tag("span", text(line.row.label), class_=f"name {colour}")
    value = tag("span", cell_markup(measured(mean, line.row)), class_="value")
    return tag("div", name, marks, value, class_="row")
