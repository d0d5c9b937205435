"""Cost: the seconds a selection takes before its target trains, beside training on everything.

What every run needs alike is left out and named instead, see `costs`.
"""

from collections.abc import Iterable

from xmas.results.measured_costs import PARTS, Cost, measured_cost
from xmas.results.report.evidence import Evidence, Line
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
from xmas.store.index import AbsentError, Config, Result

_PREPARED = ("tokens", "vision")  # asked for while other stages run; no stage contains them
_HEIGHT = 24


def bars(found: Evidence) -> str:
    """A bar for every row of the table. Raises AbsentError: no target is left in the store."""
    costs: dict[int, Cost] = {}
    lost = []
    for number, line in enumerate(found.lines):
        try:
            costs[number] = Cost.mean(
                [measured_cost(found.index, one.target) for one in line.trainings]
            )
        except AbsentError as error:
            lost.append(f"{line.row.label}, {line.budget}: {error}")
    if not costs:
        raise AbsentError(" ".join(lost))
    whole = next(
        (costs[n] for n, line in enumerate(found.lines) if line.is_reference and n in costs), None
    )
    scale = Scale(0.0, 1.04 * max(one.total for one in costs.values()))
    rows = [_bar(found.lines[number], one, whole, scale) for number, one in costs.items()]
    rows.append(tag("div", tag("span"), axis(scale, "{:g} s"), tag("span"), class_="row foot"))
    used = [part for part in PARTS if any(one.seconds[part] > 0 for one in costs.values())]
    chips = [tag("span", PARTS[part], class_=f"chip part-{part}") for part in used]
    caption = (
        "Seconds of computing before and during the training of one target, mean over its seeds; "
        "stages that several runs share are counted whole in each. Grey is what any subset of that "
        "size costs; the colour is the price of choosing it. "
        + ("Dashed line: training on everything. " if whole else "")
        + _left_out(found)
    )
    body = tag("p", *chips, class_="key") + tag("div", *rows, class_="rows")
    return (
        figure(body, caption)
        + _numbers(found, costs, used)
        + "".join(tag("p", text(why), class_="absent") for why in lost)
    )


def _bar(line: Line, one: Cost, whole: Cost | None, scale: Scale) -> str:
    at, marks = 0.0, []
    for part, seconds in one.seconds.items():
        if seconds <= 0:
            continue
        title = tag("title", f"{PARTS[part]}: {seconds:,.1f} s")
        wide = scale(seconds)
        place = {"x": percent(at), "width": percent(wide), "y": "4", "height": _HEIGHT - 8}
        marks.append(tag("rect", title, class_=f"part-{part}", **place))
        at += wide
    if whole is not None and not line.is_reference:
        marks.append(vertical(scale(whole.total), "random"))
    said = tag("b", f"{one.total:,.0f} s" if one.total >= 10 else f"{one.total:.1f} s")
    if whole is not None and whole.total and not line.is_reference:
        said += tag(
            "span", f" {one.total / whole.total:.2f} \N{MULTIPLICATION SIGN} full", class_="sd"
        )
    label = f"{line.row.label}, {line.budget}"
    name = text(line.row.label) + tag("span", f" {line.budget}", class_="sd")
    strip = track(*marks, height=_HEIGHT, label=f"{label}: {one.total:.0f} seconds")
    return tag(
        "div",
        tag("span", name, class_="name"),
        strip,
        tag("span", said, class_="value"),
        class_="row",
    )


def _left_out(found: Evidence) -> str:
    """What all runs share, in words, with its seconds."""
    index = found.index
    target: Config = found.lines[0].trainings[0].target
    start = sum(result.seconds for result in index.inside(target["start"]).values())
    prepared = [
        result.seconds
        for result in index.results.values()
        if result.kind in _PREPARED and result.config.get("pool") == found.pool
    ]
    hosts = {result.meta.get("host") for result in _trained(found)}
    said = (
        f"Left out, since every run needs it alike: pool and start ({start:,.0f} s), tokens and "
        f"tower features ({sum(prepared):,.0f} s). Answering the benchmarks is not counted."
    )
    return said + (f" Measured on {len(hosts)} machines." if len(hosts) > 1 else "")


def _trained(found: Evidence) -> Iterable[Result]:
    for line in found.lines:
        for one in line.trainings:
            yield from found.index.inside(one.target).values()


def _numbers(found: Evidence, costs: dict[int, Cost], used: list[str]) -> str:
    head = ["selector", "budget", *(PARTS[part] for part in used), "sum"]
    rows = []
    for number, one in costs.items():
        line = found.lines[number]
        cells = [f"{one.seconds[part]:,.1f}" for part in used]
        rows.append([text(line.row.label), line.budget, *cells, f"{one.total:,.1f}"])
    return tag("details", tag("summary", "The seconds as numbers"), scrolled_table(head, rows))
