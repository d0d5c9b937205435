"""What a sweep is for: the score by budget with its interval, and by what it cost."""

import math
from collections.abc import Iterable, Sequence

from xmas.results.arp import ALL
from xmas.results.measured_costs import Cost, measured_cost
from xmas.results.report.evidence import Evidence, Line
from xmas.results.report.palette import Palette
from xmas.results.report.svg import Scale, figure, frame, gridlines, line, percent, tag, text, track
from xmas.store.index import AbsentError

_HEIGHT = 300  # of a figure, in pixels
_APART = 1.3  # per cent of the width between the bars of two selectors at one budget
_WIDE = 1.0  # of the range of means, that intervals may add to the scale above and below


def budgets(found: Evidence, palette: Palette) -> str:
    """ARP by budget, a line for every selector. Raises AbsentError: there are not two budgets."""
    lines = _scored(found)
    counts = sorted({one.row.rows[-1] for one in lines})
    if len(counts) < 2:
        raise AbsentError("No curve: it takes subsets of two budgets that have an ARP.")
    up = _scale(found, lines)
    low, high = math.log(counts[0]), math.log(counts[-1])
    across = Scale(low - 0.12 * (high - low), high + 0.12 * (high - low))
    members = _by_label(lines)
    marks, strokes = [], []
    for number, (label, own) in enumerate(members.items()):
        aside = _APART * (number - (len(members) - 1) / 2)
        colour = palette[own[0].selector]
        at = [(across(math.log(one.row.rows[-1])) + aside, up(one.arp.mean)) for one in own]
        strokes.append(line(at, f"curve-line {colour}"))
        for one, (x, y) in zip(own, at, strict=True):
            marks += [_bar(found, one, x, up, colour), _dot(x, y, colour, f"{label}, {_said(one)}")]
    said = {one.row.rows[-1]: one.budget for one in lines}
    words = [_below(across(math.log(count)), said[count]) for count in counts]
    drawn = track(
        _full(up),
        frame(*strokes),
        *marks,
        *words,
        gridlines(up),
        height=_HEIGHT,
        label="ARP by budget: " + "; ".join(_told(label, own) for label, own in members.items()),
    )
    keys = palette.key(own[0].selector for own in members.values())
    return figure(
        keys + tag("div", drawn, class_="curve"),
        "ARP by budget, in equal steps for equal ratios. Point: mean over the seeds. Bar: 95 % of "
        "a bootstrap over seeds and questions, over questions alone where there is one seed; one "
        "that ends at the edge goes on beyond it. Solid line: the target trained on everything. "
        + _without(found, lines),
    )


def spent(found: Evidence, palette: Palette) -> str:
    """ARP by the seconds of the selection and the training; budgets of a selector are joined.

    Raises AbsentError: no row has both.
    """
    known = {}
    for one in _scored(found):
        try:
            each = [measured_cost(found.index, training.target) for training in one.trainings]
            known[id(one)] = Cost.mean(each).total
        except AbsentError:
            continue
    lines = [one for one in _scored(found) if id(one) in known]
    if not lines:
        raise AbsentError("No ARP by cost: no target of a row with an ARP is in the store.")
    across = Scale(0.0, 1.12 * max(known.values()))
    up = Scale.around([*(one.arp.mean for one in lines), 100.0], 0.15)
    marks, strokes = [], []
    for label, own in _by_label(lines).items():
        colour = palette[own[0].selector]
        at = [(across(known[id(one)]), up(one.arp.mean)) for one in own]
        strokes.append(line(at, f"curve-line {colour}"))
        for one, (x, y) in zip(own, at, strict=True):
            about = f"{label}, {_said(one)}, {known[id(one)]:,.0f} s"
            marks.append(_dot(x, y, colour, about))
            marks.append(
                tag("text", text(one.budget), x=percent(x), y=percent(100 - y), dy="-9",
                    text_anchor="middle", class_="tick haloed")
            )  # fmt: skip
    words = [_below(across(tick), f"{tick:,g} s") for tick in across.ticks(4)]
    drawn = track(
        _full(up),
        frame(*strokes),
        *marks,
        *words,
        gridlines(up),
        height=_HEIGHT,
        label="ARP by seconds of computing",
    )
    keys = palette.key(one.selector for one in lines)
    return figure(
        keys + tag("div", drawn, class_="curve"),
        "ARP by seconds of computing, selection and training together, mean over the seeds: to "
        "the left is cheaper, up is better. What selectors share is counted whole in each.",
    )


def _scored(found: Evidence) -> list[Line]:
    return [one for one in found.subsets if one.row.arp is not None]


def _by_label(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """The rows of every selector, settings apart, by budget."""
    members: dict[str, list[Line]] = {}
    for one in sorted(lines, key=lambda one: one.row.rows[-1]):
        members.setdefault(one.row.label, []).append(one)
    return members


def _scale(found: Evidence, lines: Sequence[Line]) -> Scale:
    """Holds all means and 100, and of the intervals as much as leaves the means apart."""
    means = [*(one.arp.mean for one in lines), 100.0]
    room = _WIDE * (max(means) - min(means))
    ends = [end for one in lines for end in _interval(found, one)]
    inside = [min(max(end, min(means) - room), max(means) + room) for end in ends]
    return Scale.around([*means, *inside])


def _interval(found: Evidence, one: Line) -> tuple[float, ...]:
    held = found.certainty(one).arps.get(ALL)
    return () if held is None else (held.low, held.high)


def _bar(found: Evidence, one: Line, x: float, up: Scale, colour: str) -> str:
    ends = [min(max(up(end), 0.0), 100.0) for end in _interval(found, one)]
    if not ends:
        return ""
    low, high = (percent(100 - end) for end in ends)
    return tag("line", x1=percent(x), x2=percent(x), y1=low, y2=high, class_=f"bar {colour}")


def _dot(x: float, y: float, colour: str, about: str) -> str:
    title = tag("title", text(about))
    return tag("circle", title, cx=percent(x), cy=percent(100 - y), r="5", class_=f"mean {colour}")


def _full(up: Scale) -> str:
    y = percent(100 - up(100))
    return tag("line", x1="0", x2="100%", y1=y, y2=y, class_="full")


def _below(x: float, said: str) -> str:
    anchor = "start" if x < 4 else "end" if x > 96 else "middle"
    return tag(
        "text", text(said), x=percent(x), y="100%", dy="14", text_anchor=anchor, class_="tick"
    )


def _said(one: Line) -> str:
    return f"{one.budget}: ARP {one.arp.mean:.1f}"


def _told(label: str, own: list[Line]) -> str:
    return f"{label}, " + ", ".join(map(_said, own))


def _without(found: Evidence, lines: Iterable[Line]) -> str:
    lost = sum(not _interval(found, one) for one in lines)
    return f"{lost} without a bar: their scores keep no outcomes of questions." if lost else ""
