"""Cost: the seconds a selection takes before its target trains, compared with training on all rows.

What every run needs alike is left out and named instead, see `measured_costs`.
"""

from collections.abc import Iterable

from xmas.results.evidence import Evidence, Line
from xmas.results.leaderboard import REFERENCE
from xmas.results.measured_costs import PARTS, Cost
from xmas.results.report.svg import (
    Scale,
    axis,
    figure,
    joined,
    percent,
    scrolled_table,
    tag,
    text,
    track,
    vertical,
)
from xmas.store.index import AbsentError, Config, Result

_PREPARED = ("tokens", "vision")  # inputs of every run
_HEIGHT = 24

Costs = list[tuple[Line, Cost]]


def bars(evidence: Evidence) -> str:
    """A bar for every row of the table. Raises AbsentError: no target is left in the store."""
    costs: Costs = [(line, line.cost) for line in evidence.lines if line.cost is not None]
    absent = [
        f"{line.row.label}, {line.budget}: {line.cost_absent}"
        for line in evidence.lines
        if line.cost is None
    ]
    if not costs:
        raise AbsentError(" ".join(absent))
    reference = next((cost for line, cost in costs if line.selector == REFERENCE), None)
    scale = Scale(0.0, 1.04 * max(cost.total for _, cost in costs))
    rows = [_bar(line, cost, reference, scale) for line, cost in costs]
    rows.append(tag("div", tag("span"), axis(scale, "{:g} s"), tag("span"), class_="row foot"))
    parts = [part for part in PARTS if any(cost.seconds[part] > 0 for _, cost in costs)]
    chips = [tag("span", PARTS[part], class_=f"chip part-{part}") for part in parts]
    caption = (
        "Seconds of computing before and during the training of one target, mean over its seeds; "
        "stages that several runs share are counted whole in each. Grey is what any subset of that "
        "size costs; the colour is the price of choosing it. "
        + ("Dashed line: training on everything. " if reference else "")
        + _left_out(evidence)
    )
    body = tag("p", *chips, class_="key") + tag("div", *rows, class_="rows")
    return (
        figure(body, caption)
        + _numbers(costs, parts)
        + joined(tag("p", why, class_="absent") for why in absent)
    )


def _bar(line: Line, cost: Cost, reference: Cost | None, scale: Scale) -> str:
    at, marks = 0.0, []
    for part, seconds in cost.seconds.items():
        if seconds <= 0:
            continue
        title = tag("title", f"{PARTS[part]}: {seconds:,.1f} s")
        wide = scale(seconds)
        place = {"x": percent(at), "width": percent(wide), "y": "4", "height": _HEIGHT - 8}
        marks.append(tag("rect", title, class_=f"part-{part}", **place))
        at += wide
    if reference is not None and not line.is_reference:
        marks.append(vertical(scale(reference.total), "random"))
    total = tag("b", f"{cost.total:,.0f} s" if cost.total >= 10 else f"{cost.total:.1f} s")
    if reference is not None and reference.total and not line.is_reference:
        times = f" {cost.total / reference.total:.2f} \N{MULTIPLICATION SIGN} full"
        total += tag("span", times, class_="sd")
    label = f"{line.row.label}, {line.budget}"
    name = text(line.row.label) + tag("span", f" {line.budget}", class_="sd")
    strip = track(*marks, height=_HEIGHT, label=f"{label}: {cost.total:.0f} seconds")
    return tag(
        "div",
        tag("span", name, class_="name"),
        strip,
        tag("span", total, class_="value"),
        class_="row",
    )


def _left_out(evidence: Evidence) -> str:
    """What all runs share, in words, with its seconds."""
    index = evidence.index
    target: Config = evidence.lines[0].trainings[0].target
    start = index.inside(target["start"])
    prepared = [
        result.seconds
        for key, result in index.results.items()
        if key not in start
        and result.kind in _PREPARED
        and result.config.get("pool") == evidence.pool
    ]
    hosts = {result.meta.get("host") for result in _trained(evidence)}
    sentences = (
        f"Left out, since every run needs it alike: pool and start "
        f"({sum(result.seconds for result in start.values()):,.0f} s), tokens and "
        f"tower features ({sum(prepared):,.0f} s). Answering the benchmarks is not counted."
    )
    return sentences + (f" Measured on {len(hosts)} machines." if len(hosts) > 1 else "")


def _trained(evidence: Evidence) -> Iterable[Result]:
    for line in evidence.lines:
        for training in line.trainings:
            yield from evidence.index.inside(training.target).values()


def _numbers(costs: Costs, used: list[str]) -> str:
    head = ["selector", "budget", *(PARTS[part] for part in used), "sum"]
    rows = []
    for line, cost in costs:
        cells = [f"{cost.seconds[part]:,.1f}" for part in used]
        rows.append([text(line.row.label), line.budget, *cells, f"{cost.total:,.1f}"])
    return tag("details", tag("summary", "The seconds as numbers"), scrolled_table(head, rows))
