"""Published results, from `published.csv` beside this file: a number a line, each with its source.

They are for reading beside measured ones, never for computing with them: other targets, judges and
suites stand behind them, and the same baseline differs by up to 5 points between papers. `kind`
says how a number is known: printed by those who claim it; third party, re-run or copied by others;
digitised from a figure; recomputed from a printed row.
"""

import csv
import dataclasses
import functools
import math
from collections.abc import Collection
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Published:
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
def published() -> tuple[Published, ...]:
    """All of them, in the order of the file."""
    with (Path(__file__).parent / "published.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    own = ("pool", "target", "method", "selector", "budget", "source")
    grouped: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for line in lines:
        grouped.setdefault(tuple(line[name] for name in own), []).append(line)
    return tuple(
        Published(
            *key[:4],
            budget=float(key[4]),
            kind=", ".join(dict.fromkeys(line["kind"] for line in members)),
            source=key[5],
            notes=tuple(dict.fromkeys(line["note"] for line in members if line["note"])),
            scores={line["benchmark"]: float(line["value"]) for line in members},
        )
        for key, members in grouped.items()
    )


def beside(pool: str, shown: Collection[tuple[str, float]]) -> list[Published]:
    """Those on a pool for the (selector, budget) pairs that are shown."""
    return [
        one
        for one in published()
        if one.pool == pool
        and any(
            one.selector == selector and math.isclose(one.budget, budget, rel_tol=1e-6)
            for selector, budget in shown
        )
    ]
