"""The curves of a sweep as SVG: ARP by budget with its interval, and by what it cost."""

import math
from collections.abc import Iterable, Sequence

from xmas.results.curves import BUDGET, COST, Point, heights, series
from xmas.results.evidence import Evidence, Line
from xmas.results.report.palette import Palette
from xmas.results.report.svg import Scale, figure, frame, gridlines, line, percent, tag, text, track
from xmas.store.index import AbsentError, EmptyError

_HEIGHT = 300  # of a figure, in pixels
_APART = 1.3  # per cent of the width between the bars of two selectors at one budget
_WIDE = 1.0  # of the range of means, that intervals may add to the scale above and below


def budgets(evidence: Evidence, palette: Palette) -> str:
    """ARP by budget, a line for every selector. Raises AbsentError: there are not two budgets."""
    curves = series(evidence, BUDGET)
    points = _all(curves.values())
    labels = {_rows(point): point.line.budget for point in points}
    counts = sorted(labels)
    if len(counts) < 2:
        raise EmptyError("No curve: it takes subsets of two budgets that have an ARP.")
    up = _scale(points)
    low, high = math.log(counts[0]), math.log(counts[-1])
    across = Scale(low - 0.12 * (high - low), high + 0.12 * (high - low))
    marks, strokes = [], []
    for number, (label, own) in enumerate(curves.items()):
        aside = _APART * (number - (len(curves) - 1) / 2)
        colour = palette[own[0].line.selector]
        at = [(across(math.log(_rows(point))) + aside, up(point.y)) for point in own]
        strokes.append(line(at, f"curve-line {colour}"))
        for point, (x, y) in zip(own, at, strict=True):
            title = f"{label}, {_point_text(point.line)}"
            marks += [_bar(point, x, up, colour), _dot(x, y, colour, title)]
    ticks = [_below(across(math.log(count)), labels[count]) for count in counts]
    spoken = "; ".join(_curve_text(label, own) for label, own in curves.items())
    chart = track(
        _full(up),
        frame(*strokes),
        *marks,
        *ticks,
        gridlines(up),
        height=_HEIGHT,
        label=f"ARP by budget: {spoken}",
    )
    keys = palette.key(own[0].line.selector for own in curves.values())
    return figure(
        keys + tag("div", chart, class_="curve"),
        "ARP by budget, in equal steps for equal ratios. Point: mean over the seeds. Bar: 95 % of "
        "a bootstrap over seeds and questions, over questions alone where there is one seed; a bar "
        "that ends at the edge continues beyond it. Solid line: the target trained on everything. "
        + _without(points),
    )


def costs(evidence: Evidence, palette: Palette) -> str:
    """ARP by the seconds of the selection and the training; budgets of a selector are joined.

    Raises AbsentError: no row has both.
    """
    curves = series(evidence, COST)
    points = _all(curves.values())
    if not points:
        raise AbsentError("No ARP by cost: no target of a row with an ARP is in the store.")
    across = Scale(0.0, 1.12 * max(map(_seconds, points)))
    up = Scale.around(heights(points), 0.15)
    marks, strokes = [], []
    for label, own in curves.items():
        colour = palette[own[0].line.selector]
        at = [(across(_seconds(point)), up(point.y)) for point in own]
        strokes.append(line(at, f"curve-line {colour}"))
        for point, (x, y) in zip(own, at, strict=True):
            title = f"{label}, {_point_text(point.line)}, {_seconds(point):,.0f} s"
            marks.append(_dot(x, y, colour, title))
            marks.append(
                tag("text", text(point.line.budget), x=percent(x), y=percent(100 - y), dy="-9",
                    text_anchor="middle", class_="tick haloed")
            )  # fmt: skip
    ticks = [_below(across(tick), f"{tick:,g} s") for tick in across.ticks(4)]
    chart = track(
        _full(up),
        frame(*strokes),
        *marks,
        *ticks,
        gridlines(up),
        height=_HEIGHT,
        label="ARP by seconds of computing",
    )
    keys = palette.key(point.line.selector for point in points)
    return figure(
        keys + tag("div", chart, class_="curve"),
        "ARP by seconds of computing, selection and training together, mean over the seeds: to "
        "the left is cheaper, up is better. What selectors share is counted whole in each.",
    )


def _all(curves: Iterable[list[Point]]) -> list[Point]:
    return [point for own in curves for point in own]


def _rows(point: Point) -> int:
    """Of the subset: the axis puts budgets in tokens and in per cent on one scale."""
    return point.line.row.rows[-1]


def _seconds(point: Point) -> float:
    return 3600 * point.x


def _scale(points: Sequence[Point]) -> Scale:
    """Contains all means and 100, and of the intervals as much as leaves the means apart."""
    means = heights(points)
    room = _WIDE * (max(means) - min(means))
    ends = [end for point in points if point.interval
            for end in (point.interval.low, point.interval.high)]  # fmt: skip
    inside = [min(max(end, min(means) - room), max(means) + room) for end in ends]
    return Scale.around([*means, *inside])


def _bar(point: Point, x: float, up: Scale, colour: str) -> str:
    if point.interval is None:
        return ""
    ends = [min(max(up(end), 0.0), 100.0) for end in (point.interval.low, point.interval.high)]
    low, high = (percent(100 - end) for end in ends)
    return tag("line", x1=percent(x), x2=percent(x), y1=low, y2=high, class_=f"bar {colour}")


def _dot(x: float, y: float, colour: str, title: str) -> str:
    hover = tag("title", text(title))
    return tag("circle", hover, cx=percent(x), cy=percent(100 - y), r="5", class_=f"mean {colour}")


def _full(up: Scale) -> str:
    y = percent(100 - up(100))
    return tag("line", x1="0", x2="100%", y1=y, y2=y, class_="full")


def _below(x: float, label: str) -> str:
    anchor = "start" if x < 4 else "end" if x > 96 else "middle"
    return tag(
        "text", text(label), x=percent(x), y="100%", dy="14", text_anchor=anchor, class_="tick"
    )


def _point_text(line: Line) -> str:
    return f"{line.budget}: ARP {line.arp.mean:.1f}"


def _curve_text(label: str, own: list[Point]) -> str:
    return f"{label}, " + ", ".join(_point_text(point.line) for point in own)


def _without(points: Iterable[Point]) -> str:
    count = sum(point.interval is None for point in points)
    return f"{count} without a bar: their scores keep no outcomes of questions." if count else ""
