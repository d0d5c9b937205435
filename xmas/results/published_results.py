"""Published results: the one place that has their numbers, `published.csv` next to this file.

The file has one number a line, each with its source. They are for reading next to measured scores,
never for computing with them: targets, judges and benchmark sets differ, and the same baseline
differs by up to 5 points between papers. `kind` says how a number is known: `printed` by those who
claim it; `third party`, re-run or copied by others; `digitised` from a figure; `recomputed` from a
printed row. Experiments in `conf/experiment/` name the rows that they reproduce.
"""

import csv
import dataclasses
import functools
import math
from collections.abc import Collection
from pathlib import Path

FILE = Path(__file__).parent / "published.csv"


@dataclasses.dataclass(frozen=True)
class PublishedResult:
    """One method at one budget in one source; `scores` by benchmark, ARP among them.

    `total_of_full` in `scores` is selection and training relative to training on everything.
    """

    pool: str
    target: str
    method: str  # as the source calls it
    selector: str  # the one here that does the same; empty: none
    budget: float  # a fraction of the pool
    kind: str
    source: str
    notes: tuple[str, ...]
    scores: dict[str, float]


@functools.cache
def published_results() -> tuple[PublishedResult, ...]:
    """All of them, in the order of the file."""
    with FILE.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    own = ("pool", "target", "method", "selector", "budget", "source")
    lines_of_result: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for line in lines:
        lines_of_result.setdefault(tuple(line[name] for name in own), []).append(line)
    return tuple(
        PublishedResult(
            *key[:4],
            budget=float(key[4]),
            kind=", ".join(dict.fromkeys(line["kind"] for line in members)),
            source=key[5],
            notes=tuple(dict.fromkeys(line["note"] for line in members if line["note"])),
            scores={line["benchmark"]: float(line["value"]) for line in members},
        )
        for key, members in lines_of_result.items()
    )


def published_for(pool: str, trained: Collection[tuple[str, float]]) -> list[PublishedResult]:
    """Published results on a pool for (selector, budget as a fraction) pairs."""
    return [
        result
        for result in published_results()
        if result.pool == pool
        and any(
            result.selector == selector and math.isclose(result.budget, budget, rel_tol=1e-6)
            for selector, budget in trained
        )
    ]
