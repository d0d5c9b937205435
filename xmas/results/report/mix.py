"""What subsets consist of: their sources compared with the pool's, and the rows they share."""

import json

import numpy as np

from xmas.data.pool import Pool
from xmas.results.evidence import Evidence, Line
from xmas.results.report.palette import Palette
from xmas.results.report.pool_rows import pool_rows
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
from xmas.store.index import EmptyError

_SOURCES = 16  # shown; the others are added up
_HEIGHT = 24


def sources(evidence: Evidence, palette: Palette, pool: Pool | None) -> str:
    """A line for every source: the pool's share as a tick, the subsets' as dots."""
    examples = pool_rows(evidence, pool)
    lines = _chosen(evidence)
    names, counts = np.unique(examples.sources, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    listed = names[order[:_SOURCES]].tolist()
    of_pool = _shares(examples.sources, listed)
    subsets = [
        _shares(examples.sources[evidence.rows_of(line.trainings[0])], listed) for line in lines
    ]
    labels = [*listed, f"{len(names) - _SOURCES} others"] if len(names) > _SOURCES else listed
    scale = Scale(0.0, 1.05 * max(max(shares) for shares in [of_pool, *subsets]))
    rows = []
    for number, label in enumerate(labels):
        marks: list[str] = [vertical(scale(of_pool[number]), "pool")]
        for line, shares in zip(lines, subsets, strict=True):
            marks.append(_dumbbell(scale, of_pool[number], shares[number], palette[line.selector]))
        spoken = f"{label}: pool {of_pool[number]:.1f} per cent"
        name = tag("span", text(label), class_="name")
        share = tag("span", f"{of_pool[number]:.1f} %", class_="value")
        rows.append(
            tag("div", name, track(*marks, height=_HEIGHT, label=spoken), share, class_="row")
        )
    rows.append(tag("div", tag("span"), axis(scale, "{:g} %"), tag("span"), class_="row foot"))
    tick = tag("span", "the pool", class_="chip tick-chip")
    keys = palette.key((line.selector for line in lines), tick)
    return figure(
        keys + tag("div", *rows, class_="rows"),
        f"Share of every source in per cent of the rows, at {lines[0].budget}, seed "
        f"{lines[0].trainings[0].seed}. The upright tick and the number are the pool's share; a "
        "dot to its right takes more of the source than a fair share.",
    )


def _dumbbell(scale: Scale, pool: float, share: float, colour: str) -> str:
    middle = _HEIGHT / 2
    at = percent(scale(share))
    bar = tag("line", x1=percent(scale(pool)), x2=at, y1=middle, y2=middle, class_=f"bar {colour}")
    return bar + tag("circle", cx=at, cy=middle, r="5", class_=f"mean {colour}")


def _shares(of_rows: np.ndarray, listed: list[str]) -> list[float]:
    """Per cent of the listed sources, then of all others."""
    shares = [100 * float((of_rows == name).mean()) for name in listed]
    return [*shares, max(0.0, 100 - sum(shares))]


def overlap(evidence: Evidence, palette: Palette) -> str:
    """The rows two subsets share, in per cent of one of them. Raises EmptyError: there is one."""
    lines = _chosen(evidence)
    if len(lines) < 2:
        raise EmptyError("There is only one subset of this size, so nothing can overlap.")
    subsets = [evidence.rows_of(line.trainings[0]) for line in lines]
    size = len(subsets[0])
    rows = []
    for line, own in zip(lines, subsets, strict=True):
        cells = []
        for partner in subsets:
            share = len(np.intersect1d(own, partner)) / size
            percentage = "" if partner is own else f"{100 * share:.0f}"
            cells.append(
                tag("span", percentage, class_="cell", style=f"--share:{100 * share:.0f}%")
            )
        rows.append([tag("span", text(line.row.label), class_=palette[line.selector]), *cells])
    chance = _chance(evidence, size)
    return figure(
        scrolled_table(["", *(text(line.row.label) for line in lines)], rows, "matrix"),
        f"Rows that two subsets of {size:,} have in common, in per cent, at seed "
        f"{lines[0].trainings[0].seed}. {chance}",
    )


def _chance(evidence: Evidence, size: int) -> str:
    """How many rows two random subsets share."""
    subset = evidence.index.result(evidence.largest[0].trainings[0].subset, "subset")
    count = json.loads(subset.file("manifest.json").read_text())["pool_rows"]
    return (
        f"Two independent random subsets would share {100 * size / count:.0f}; a common seed can "
        "make selectors that draw at random share more."
    )


def _chosen(evidence: Evidence) -> list[Line]:
    """The rows at the largest budget. Raises EmptyError: nothing was trained on a subset."""
    if not evidence.largest:
        raise EmptyError("No target was trained on a subset.")
    return evidence.largest
