"""Subsets without a score: what was kept, in words, as a table, and how long the rows are."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from xmas.data.pool import Pool
from xmas.results.evidence import Evidence, Line
from xmas.results.report.audits import audit_of
from xmas.results.report.pool_rows import pool_rows
from xmas.results.report.svg import joined, scrolled_table, tag, text
from xmas.results.statistics.intervals import BASELINE

_SAMPLE = 20_000  # rows whose lengths are counted
_QUANTILES = (("5 %", 0.05), ("median", 0.5), ("95 %", 0.95))


def opening(evidence: Evidence) -> str:
    """What the subsets at the largest budget are, in words."""
    lines = evidence.largest
    pool_rows_count = _manifest(evidence, lines[0])["pool_rows"]
    share = 100 * lines[0].row.rows[-1] / pool_rows_count
    chosen = [joined(_chosen(evidence, line)) for line in lines]
    sentences: list[str] = [
        joined(
            [
                f"{share:.3g}\N{NO-BREAK SPACE}% of {pool_rows_count:,} rows, by ",
                joined(chosen, "; "),
                ".",
            ]
        )
    ]
    sentences += _against_random(evidence)
    return tag("p", joined(sentences, " "), class_="lead")


def _chosen(evidence: Evidence, line: Line) -> list[str]:
    manifest = _manifest(evidence, line)
    sources = len(manifest["sources"])
    return [
        tag("b", line.row.label),
        f": {manifest['text_only']:,} text-only, {sources:,} source{'s' * (sources != 1)}",
    ]


def _against_random(evidence: Evidence) -> Iterator[str]:
    """How each subset differs from the random one of its size: near copies, and shared rows."""
    lines = evidence.largest
    random = next((line for line in lines if line.selector == BASELINE), None)
    for line in lines:
        if random is None or line is random:
            continue
        own, others = (evidence.rows_of(of.trainings[0]) for of in (line, random))
        shared = 100 * len(np.intersect1d(own, others)) / max(len(own), 1)
        facts = [f"{shared:.0f}\N{NO-BREAK SPACE}% of its rows are in both"]
        near = [_near_copies(evidence, of) for of in (line, random)]
        if None not in near:
            fewer = "fewer" if near[0] < near[1] else "more" if near[0] > near[1] else "as many"
            shares = ", ".join(f"{share:.0f}\N{NO-BREAK SPACE}%" for share in near)
            facts.append(f"it keeps {fewer} near copies ({shares})")
        yield f"Against random, {line.row.label}: {', '.join(facts)}."


def _near_copies(evidence: Evidence, line: Line) -> Any:
    """Per cent of a subset's rows that nearly repeat an earlier one; None: it was not audited."""
    audit = audit_of(line, evidence.index)
    if audit is None:
        return None
    return 100 * audit["duplicates"]["subset"]["near"] / max(audit["rows"]["subset"], 1)


def table(evidence: Evidence) -> str:
    """A line for every selector and budget."""
    rows = []
    for line in evidence.lines:
        manifest = _manifest(evidence, line)
        rows.append(
            [
                text(line.row.label),
                text(line.row.budget_text),
                f"{manifest['rows']:,}",
                f"{manifest['text_only']:,}",
                f"{len(manifest['sources']):,}",
                ", ".join(map(str, line.row.seeds)),
                tag("code", evidence.index.result(line.trainings[0].subset, "subset").key),
            ]
        )
    head = ["selector", "budget", "rows", "text-only", "sources", "seeds", "subset"]
    notes = [
        tag("li", f"{choice}: {remark}.")
        for choice, remark in {
            pair
            for line in evidence.lines
            for pair in _manifest(evidence, line).get("small_models", {}).items()
        }
    ]
    return scrolled_table(head, rows) + (tag("ul", *notes, class_="notes") if notes else "")


def lengths(evidence: Evidence, pool: Pool | None) -> str:
    """Characters of a row, of the pool and of the subsets at the largest budget."""
    examples = pool_rows(evidence, pool)
    sample = np.arange(0, len(examples), max(1, -(-len(examples) // _SAMPLE)))
    turns = (itertools.chain(*examples.conversation(row)) for row in sample.tolist())
    characters = np.array([sum(map(len, of_row)) for of_row in turns])
    sides = {"pool": np.ones(len(sample), dtype=bool)}
    for line in evidence.largest:
        sides[line.row.label] = np.isin(sample, evidence.rows_of(line.trainings[0]))
    sides = {name: inside for name, inside in sides.items() if inside.any()}
    rows = [
        [name, *(f"{np.quantile(characters[inside], at):,.0f}" for inside in sides.values())]
        for name, at in _QUANTILES
    ]
    sampled = f" In a sample of {len(sample):,} rows." if len(sample) < len(examples) else ""
    note = f"Characters of the questions and answers of a row.{sampled}"
    return scrolled_table(["", *map(text, sides)], rows) + tag("p", note, class_="notes")


def _manifest(evidence: Evidence, line: Line) -> dict[str, Any]:
    """The manifest of a row's first subset. Raises AbsentError: it is no longer in the store."""
    result = evidence.index.result(line.trainings[0].subset, "subset")
    return json.loads(result.file("manifest.json").read_text(encoding="utf-8"))
