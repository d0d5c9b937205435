"""Clusters: how large they are, and how much of each the subset takes."""

import numpy as np

from xmas.results.evidence import Evidence
from xmas.results.report.svg import (
    Scale,
    area,
    axis,
    figure,
    frame,
    gridlines,
    joined,
    percent,
    tag,
    text,
    track,
)
from xmas.results.report.trajectories import labels

_APART = 120  # clusters up to which bars have gaps between them


def sizes(evidence: Evidence) -> str:
    """Clusters from the largest to the smallest, and the share of each that is kept."""
    of_row, no_image = labels(evidence)
    line = evidence.xmas()
    subset = evidence.rows_of(line.trainings[0])
    count = np.bincount(of_row, minlength=no_image + 1)
    of_subset = np.bincount(of_row[subset], minlength=no_image + 1)
    order = np.argsort(-count[:no_image], kind="stable")
    scale = Scale(0.0, 1.1 * float(count[:no_image].max()))
    bars = track(
        frame(_bars(count[order], scale, "bar-all"), _bars(of_subset[order], scale, "bar-kept")),
        gridlines(scale, right=True),
        height=200,
        label=f"{no_image} clusters, the largest with {count[order[0]]} rows",
    )
    spread = (
        f"{no_image:,} clusters, from {count[order[0]]:,} rows to {count[order[-1]]:,}, "
        f"the median {np.median(count[:no_image]):g}"
    )
    whole = int((of_subset[:no_image] == count[:no_image]).sum())
    exhausted = f"{whole:,} are taken whole" if whole else "none is taken whole"
    keys = [
        tag("span", "rows of a cluster", class_="chip bar-all"),
        tag(
            "span", f"kept at {line.budget}, seed {line.trainings[0].seed}", class_="chip bar-kept"
        ),
    ]
    caption = (
        f"{spread}, side by side from the largest. Every cluster gives the same number of rows as "
        f"far as it has them: {exhausted}. Text-only rows have no trajectory and are apart, below."
    )
    body = [tag("p", *keys, class_="key"), bars, _text_only(int(count[-1]), int(of_subset[-1]))]
    return figure(joined(body), caption)


def _bars(values: np.ndarray, scale: Scale, class_: str) -> str:
    """Bars from the left, as one shape: with a thousand clusters a bar is less than a pixel."""
    wide = 100 / len(values)
    gap = 0.12 * wide if len(values) <= _APART else 0.0
    upper = []
    for number, value in enumerate(values):
        start, end, top = number * wide, (number + 1) * wide - gap, scale(float(value))
        upper += [(start, 0.0), (start, top), (end, top), (end, 0.0)]
    return area(upper, [], class_)


def _text_only(count: int, chosen: int) -> str:
    """The rows without an image, on a scale of their own."""
    if count == 0:
        return tag("p", text("The pool has no text-only rows."), class_="absent")
    scale = Scale(0.0, float(count))
    strip = track(
        tag("rect", x="0", width="100%", y="6", height="12", class_="bar-all"),
        tag("rect", x="0", width=percent(scale(chosen)), y="6", height="12", class_="bar-kept"),
        height=24,
        label=f"text-only rows: {chosen} of {count} kept",
    )
    ends = tag("span", f"{chosen:,} of {count:,}", class_="value")
    row = tag("div", tag("span", "text-only rows", class_="name"), strip, ends, class_="row")
    return tag(
        "div",
        row,
        tag("div", tag("span"), axis(scale), tag("span"), class_="row foot"),
        class_="rows",
    )
