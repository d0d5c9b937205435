"""The tables of an exam: stability first, planted rows, coverage, length and order, remedies."""

import math
from collections.abc import Iterator, Sequence

from xmas.results.exam.marks import (
    COVERAGE,
    LENGTH,
    ORDER,
    PLANTED,
    REMEDY,
    STABILITY,
    Mark,
)
from xmas.results.grids import Grid
from xmas.results.view import GAP, TextCell

_NOTES = {
    STABILITY: [
        "The share of their rows that two subsets have in common, of all pairs the mean, from the "
        "lowest to the highest; chance: of random subsets of that size",
        "N % left out: the subset of the rest of the pool, compared with that of the whole, among "
        "the rows that both had to choose from",
        "Ranking seeds move what the selector draws itself; other seeds those of k-means and "
        "classifiers; proxy seeds the order of batches in a fit, and nothing else: what a selector "
        "draws itself is the same",
    ],
    PLANTED: [
        "Share kept of planted rows / share kept of clean rows: 1.00, it does not tell them apart; "
        "0, it drops them all; in brackets the 95 % interval over seeds",
        "Exact and near: of a row that is kept, the share of its copies that are kept too, by the "
        "share kept of clean rows",
    ],
    COVERAGE: [
        "Share of the pool's sources and clusters with a row in the subset, and that of a random "
        "subset; the clusters are those of thumbnails and words, which no selector uses",
        "Mix moved: the share of rows that had to change source for the pool's mix. Nearest: the "
        "mean cosine of a chosen row with the chosen one most like it; higher is more redundant",
    ],
    LENGTH: [
        "What text length alone explains of the variance of the score, and of the place in the "
        "order; rank correlation: positive, long rows come first",
    ],
    REMEDY: ["As stability, between proxy seeds, with one thing changed in every fit"],
    ORDER: ["Spearman's rank correlation of two orders of the pool"],
}


_FIRST = (  # columns, before all others; the first line of an exam is what proxy seeds share
    "proxy seeds", "ranking seeds", "other seeds", "start points", "R2 of the score",
)  # fmt: skip


def exam_grids(marks: Sequence[Mark]) -> Iterator[Grid]:
    """One table for every part that has marks."""
    parts = {
        STABILITY: ("Stability", _interval),
        REMEDY: ("What makes it more stable", _interval),
        PLANTED: ("Planted rows: kept, by clean rows kept", _interval),
        COVERAGE: ("Coverage and redundancy", _chance),
        LENGTH: ("Text length", _number),
        ORDER: ("Orders alike", _number),
    }
    for part, (title, cell) in parts.items():
        of_part = [mark for mark in marks if mark.part == part]
        if not of_part:
            continue
        names = list(dict.fromkeys(mark.name for mark in of_part))
        names.sort(key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
        chances = part in (STABILITY, REMEDY)
        has_budget = any(mark.budget is not None for mark in of_part)
        rows = []
        for selector, budget in dict.fromkeys((mark.selector, mark.budget) for mark in of_part):
            by_name = {
                mark.name: mark
                for mark in of_part
                if (mark.selector, mark.budget) == (selector, budget)
            }
            cells = [selector] if budget is None else [selector, f"{100 * budget:g} %"]
            cells += [cell(by_name[name]) if name in by_name else GAP for name in names]
            if chances:
                cells.append(f"{next(iter(by_name.values())).chance:.2f}")
            rows.append([TextCell(text) for text in cells])
        head = ["selector", *["budget"] * has_budget, *names, *["chance"] * chances]
        yield Grid(title, [name.replace("_", " ") for name in head], rows, _NOTES[part])


def _number(mark: Mark) -> str:
    return GAP if math.isnan(mark.value) else f"{mark.value:.2f}"


def _interval(mark: Mark) -> str:
    if mark.low is None or mark.high is None:
        return _number(mark)
    low = max(0.0, mark.low)  # a share and a ratio of shares are not below 0
    return f"{mark.value:.2f} [{low:.2f} to {mark.high:.2f}]"


def _chance(mark: Mark) -> str:
    return f"{_number(mark)} ({mark.chance:.2f})"
