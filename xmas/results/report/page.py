"""The page: one file that opens anywhere, with the sections of every comparison in it."""

import datetime
import functools
from collections.abc import Callable, Iterable
from pathlib import Path

from xmas.results.report import (
    audits,
    clusters,
    costs,
    curves,
    examples,
    heat,
    mix,
    origins,
    scores,
    trajectories,
)
from xmas.results.report.evidence import Evidence
from xmas.results.report.palette import Palette
from xmas.results.report.svg import tag, text
from xmas.store.index import AbsentError
from xmas.store.progress import bar

Part = Callable[[], str]


def page(found: list[Evidence], *, each: int) -> str:
    """The whole HTML text; `each` example images a strip."""
    palette = Palette(line.selector for one in found for line in one.lines)
    plans = [(one, number, _sections(one, palette, each)) for number, one in enumerate(found, 1)]
    body = [_top(found)]
    with bar(total=sum(len(plan) for _, _, plan in plans), label="report", unit="section") as done:
        for one, number, plan in plans:
            body.append(_heading(one, number, list(plan)))
            for name, parts in plan.items():
                body.append(_section(name, _anchor(number, name), parts))
                done.update(1)
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", text(f"xmas: {', '.join(dict.fromkeys(_names(found)))}")),
        tag("style", style),
    )
    return (
        "<!doctype html>\n" + tag("html", head, tag("body", tag("main", *body)), lang="en") + "\n"
    )


def _names(found: Iterable[Evidence]) -> list[str]:
    return [one.comparison.pool for one in found]


def _top(found: list[Evidence]) -> str:
    pools = list(dict.fromkeys(_names(found)))
    named = f"pool{'s' if len(pools) > 1 else ''} {' and '.join(pools)}"
    trained = sum(len(line.trainings) for one in found for line in one.lines)
    day = datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M")
    about = f"{trained} trained targets · {text(found[0].store.root)} · {day}"
    said = [scores.summary(one) for one in found]
    return tag(
        "header",
        tag("p", "xmas · report", class_="kicker"),
        tag("h1", text(f"How much of {named} is enough?")),
        *said,
        tag("p", about, class_="about"),
    )


def _heading(one: Evidence, number: int, names: list[str]) -> str:
    """What is compared, and the way to its sections."""
    group = tag("code", text(one.comparison.reference_group))
    links = [tag("a", name, href=f"#{_anchor(number, name)}") for name in names]
    return tag("h2", f"Pool {text(one.comparison.pool)} ", tag("small", group)) + tag("nav", *links)


def _sections(one: Evidence, palette: Palette, each: int) -> dict[str, list[Part]]:
    """Every section as the parts that make it: a part that is missing does not hide the others."""
    of = functools.partial
    return {
        "Scores": [of(scores.table, one), of(scores.dots, one, palette)],
        "Budgets": [of(curves.budgets, one, palette)],
        "Benchmarks": [of(heat.benchmarks, one, palette)],
        "Cost": [of(curves.spent, one, palette), of(costs.bars, one)],
        "Trajectories": [of(trajectories.ribbons, one), of(trajectories.length_curve, one)],
        "Clusters": [of(clusters.sizes, one)],
        "Sources": [of(mix.sources, one, palette)],
        "Overlap": [of(mix.overlap, one, palette)],
        "Audit": [of(audits.table, one)],
        "Examples": [of(examples.strips, one, palette, each)],
        "Origins": [of(origins.origins, one)],
    }


def _section(name: str, anchor: str, parts: list[Part]) -> str:
    made = [tag("h3", name)]
    for part in parts:
        try:
            made.append(part())
        except AbsentError as error:
            why = tag("p", text(error), class_="absent")
            if why not in made:  # one reason for all parts is said once
                made.append(why)
    return tag("section", *made, id=anchor)


def _anchor(number: int, name: str) -> str:
    return f"{name.lower()}-{number}"
