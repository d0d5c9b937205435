"""Exams of a pool: their tables and sentences, from the `exam.json` of the store's exams."""

import json
from collections.abc import Iterable

from xmas.results.evidence import Evidence
from xmas.results.exam.exam_grids import exam_grids
from xmas.results.exam.marks import ORDER, Mark, read
from xmas.results.exam.sentences import openings, sentences
from xmas.results.leaderboard import Leaderboard
from xmas.results.report.html_table import html_table
from xmas.results.report.svg import joined, tag, text
from xmas.store import Store
from xmas.store.index import EmptyError, Result, ResultIndex
from xmas.store.stage import digest

_SELECTED = ("selectors", "selector")  # fields in which exams of one group differ


def tables(evidence: Evidence) -> str:
    """Every table of the exams of this pool, then what they say in words.

    Raises EmptyError: none was made.
    """
    marks = marks_of(evidence)
    blocks = [tag("h4", text(grid.title)) + html_table(grid) for grid in exam_grids(marks)]
    lines = [tag("li", text(sentence)) for sentence in sentences(marks)]
    return joined([*blocks, tag("ul", *lines, class_="notes")])


def opening(evidence: Evidence) -> str:
    """How stable the selectors are, where nothing was chosen of the pool yet."""
    return tag("p", joined(map(text, openings(marks_of(evidence))), " "), class_="lead")


def marks_of(evidence: Evidence) -> list[Mark]:
    """The marks of the last exam of a pool, and of others that differ in their selectors alone, as
    those of a sweep do.

    Raises EmptyError: none was made.
    """
    exams = [result for result in _exams(evidence.index) if _pool(result) == digest(evidence.pool)]
    if not exams:
        raise EmptyError("No selector was examined on this pool; `xmas goal=exam` does it.")
    alike = [result for result in exams if _settings(result) == _settings(exams[-1])]
    marks: dict[tuple, Mark] = {}
    for result in alike:
        for mark in read(json.loads(result.file("exam.json").read_text(encoding="utf-8"))["marks"]):
            marks[mark.selector, mark.budget, mark.part, mark.name] = mark
    # Those of an order are last: a pair of selectors may have been examined in either order.
    pairs = {frozenset((of.selector, of.name)): of for of in marks.values() if of.part == ORDER}
    return [*(of for of in marks.values() if of.part != ORDER), *pairs.values()]


def examined(index: ResultIndex, store: Store, others: Iterable[Evidence]) -> list[Evidence]:
    """The pools that have an exam alone, without rows of a leaderboard."""
    pools = {digest(evidence.pool) for evidence in others}
    boards = []
    for result in _exams(index)[::-1]:
        if _pool(result) not in pools:
            pools.add(_pool(result))
            name = str(result.meta.get("label", "")).rpartition("pool ")[2] or "of former results"
            board = Leaderboard(name, "", {}, (), ())
            boards.append(Evidence(board, (), (), index, store, result.config["pool"]))
    return boards


def _exams(index: ResultIndex) -> list[Result]:
    """All of a store, the last made last."""
    results = [result for result in index.results.values() if result.kind == "exam"]
    return sorted(results, key=lambda result: str(result.meta.get("finished")))


def _pool(result: Result) -> str:
    return digest(result.config["pool"])


def _settings(result: Result) -> str:
    return digest({name: of for name, of in result.config.items() if name not in _SELECTED})
