"""The page: one file that opens anywhere, with the sections of every leaderboard in it."""

import datetime
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from markupsafe import Markup

from xmas.data.pool import Pool
from xmas.results.evidence import Evidence
from xmas.results.report import (
    audits,
    clusters,
    costs,
    curves,
    examples,
    exams,
    heat,
    mix,
    origins,
    scores,
    subsets,
    trajectories,
)
from xmas.results.report.palette import Palette
from xmas.results.report.svg import tag, text
from xmas.store.index import AbsentError, EmptyError
from xmas.store.progress import bar

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # nothing runs or loads
Part = Callable[[], str]


def page(boards: Sequence[Evidence], *, pool: Pool | None, examples: int) -> str:
    """The whole HTML text.

    Args:
        boards: the leaderboards, each with all sections.
        pool: whose rows and images are shown, of the leaderboards that were made from it.
        examples: images a strip.
    """
    palette = Palette(line.selector for evidence in boards for line in evidence.lines)
    plans = [
        (
            evidence,
            number,
            _plan(evidence)(evidence, palette, pool, examples),
        )
        for number, evidence in enumerate(boards, 1)
    ]
    body = [_top(boards)]
    with bar(total=sum(len(plan) for _, _, plan in plans), label="report", unit="section") as done:
        for evidence, number, plan in plans:
            sections = {}
            for name, parts in plan.items():
                if shown := _section(name, _anchor(number, name), parts):
                    sections[name] = shown
                done.update(1)
            body += [_heading(evidence, number, list(sections)), *sections.values()]
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", text(f"xmas: {', '.join(_pools(boards))}")),
        tag("style", Markup(style)),
    )
    return (
        Markup("<!doctype html>\n")
        + tag("html", head, tag("body", tag("main", *body)), lang="en")
        + "\n"
    )


def _pools(boards: Sequence[Evidence]) -> list[str]:
    return list(dict.fromkeys(evidence.leaderboard.pool for evidence in boards))


def _top(boards: Sequence[Evidence]) -> str:
    pools = _pools(boards)
    named = f"pool{'s' if len(pools) > 1 else ''} {' and '.join(pools)}"
    scored = [evidence for evidence in boards if evidence.leaderboard.benchmarks]
    trained = sum(len(line.trainings) for evidence in scored for line in evidence.lines)
    question = f"How much of {named} is enough?" if scored else f"What was chosen of {named}"
    if not any(evidence.lines for evidence in boards):
        question = f"What selectors do with {named}"
    day = datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M")
    targets = f"{trained} trained targets · " if trained else ""
    about = f"{targets}{boards[0].store.root} · {day}"
    return tag(
        "header",
        tag("p", "xmas · report", class_="kicker"),
        tag("h1", text(question)),
        *map(_opening, boards),
        tag("p", about, class_="about"),
    )


def _opening(evidence: Evidence) -> str:
    if not evidence.lines:
        return exams.opening(evidence)
    return (scores.outcome if evidence.leaderboard.benchmarks else subsets.opening)(evidence)


def _heading(evidence: Evidence, number: int, names: list[str]) -> str:
    """What is compared, and the way to its sections."""
    leaderboard = evidence.leaderboard
    group = tag("small", tag("code", text(leaderboard.reference_group)))
    links = [tag("a", name, href=f"#{_anchor(number, name)}") for name in names]
    return tag("h2", f"Pool {leaderboard.pool} ", group) + tag("nav", *links)


def _sections(
    evidence: Evidence, palette: Palette, pool: Pool | None, images: int
) -> dict[str, list[Part]]:
    """Every section as the parts that make it: a part that is missing does not hide the others."""
    of = functools.partial
    return {
        "Scores": [
            of(scores.table, evidence),
            of(scores.dots, evidence, palette),
            of(scores.summary_table, evidence),
            of(scores.source_tables, evidence),
        ],
        "Budgets": [of(curves.budgets, evidence, palette)],
        "Benchmarks": [of(heat.benchmarks, evidence, palette)],
        "Cost": [of(curves.costs, evidence, palette), of(costs.bars, evidence)],
        "Trajectories": [
            of(trajectories.ribbons, evidence),
            of(trajectories.length_curve, evidence),
        ],
        "Clusters": [of(clusters.sizes, evidence)],
        "Sources": [of(mix.sources, evidence, palette, pool)],
        "Overlap": [of(mix.overlap, evidence, palette)],
        "Audit": [of(audits.table, evidence)],
        "Exam": [of(exams.tables, evidence)],
        "Examples": [of(examples.strips, evidence, palette, pool, images)],
        "Origins": [of(origins.origins, evidence)],
    }


def _of_subsets(
    evidence: Evidence, palette: Palette, pool: Pool | None, images: int
) -> dict[str, list[Part]]:
    """The sections of subsets that have no score yet."""
    of = functools.partial
    of_both = _sections(evidence, palette, pool, images)
    return {
        "Subsets": [of(subsets.table, evidence)],
        "Sources": of_both["Sources"],
        "Lengths": [of(subsets.lengths, evidence, pool)],
        **{name: of_both[name] for name in ("Clusters", "Trajectories", "Overlap")},
        **{name: of_both[name] for name in ("Audit", "Exam")},
        **{name: of_both[name] for name in ("Examples", "Origins")},
    }


def _of_exams(
    evidence: Evidence, palette: Palette, pool: Pool | None, images: int
) -> dict[str, list[Part]]:
    """The section of a pool of which nothing was chosen yet."""
    return {"Exam": [functools.partial(exams.tables, evidence)]}


def _plan(evidence: Evidence) -> Callable[..., dict[str, list[Part]]]:
    """Which sections there are."""
    if not evidence.lines:
        return _of_exams
    return _sections if evidence.leaderboard.benchmarks else _of_subsets


def _section(name: str, anchor: str, parts: list[Part]) -> str:
    """A section; empty where there is nothing of its kind."""
    markup: list[str] = [tag("h3", name)]
    for part in parts:
        try:
            markup.append(part())
        except EmptyError:
            continue
        except AbsentError as error:
            why = tag("p", text(error), class_="absent")
            if why not in markup:  # one reason for all parts is shown once
                markup.append(why)
    return tag("section", *markup, id=anchor) if len(markup) > 1 else ""


def _anchor(number: int, name: str) -> str:
    return f"{name.lower()}-{number}"
