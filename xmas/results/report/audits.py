"""Audits of the subsets: what is in them, from the `audit.json` of the store's audits."""

import json
from typing import Any

from xmas.results.evidence import Evidence, Line
from xmas.results.report.svg import scrolled_table, tag, text
from xmas.store.index import EmptyError, ResultIndex, key_of

_NONE = "\N{EN DASH}"


def table(evidence: Evidence) -> str:
    """A column for every audited subset at the largest budget, the pool first.

    Raises EmptyError: none of them was audited.
    """
    audited = {}
    for line in evidence.largest:
        audit = audit_of(line, evidence.index)
        if audit is not None:
            audited[line.row.label] = audit
    if not audited:
        raise EmptyError(
            "None of these subsets was audited; `xmas goal=audit` with their selector and budget "
            "does it."
        )
    first = next(iter(audited.values()))
    rows = [
        ["rows", *_numbers(audited, "rows")],
        [f"{first['length_unit']}, sum", *_numbers(audited, "lengths", "sum")],
        [
            f"{first['length_unit']}, share of the pool's",
            _NONE,
            *(f"{100 * audit['length_kept']:.1f} %" for audit in audited.values()),
        ],
        *(
            [f"{name}, {first['length_unit']} of a row", *_numbers(audited, "lengths", quantile)]
            for name, quantile in (("5 %", "q05"), ("median", "q50"), ("95 %", "q95"))
        ),
        *(
            [f"answers: {name.replace('_', '/')}", *_shares(audited, name)]
            for name in first["formats"]["pool"]
        ),
        ["exact duplicates", *_numbers(audited, "duplicates", "exact")],
        ["near duplicates", *_numbers(audited, "duplicates", "near")],
        *(
            [f"images of {name}: {how}", *_numbers(audited, "benchmarks", name, how)]
            for name, of_name in first.get("benchmarks", {}).items()
            for how in of_name
        ),
        [
            "clusters touched",
            _NONE,
            *(_coverage(audit.get("clusters")) for audit in audited.values()),
        ],
        [
            "R² of score by length",
            _NONE,
            *(_share(audit.get("score_explained_by_length")) for audit in audited.values()),
        ],
        *_overlaps(audited),
    ]
    note = (
        "Duplicates repeat an earlier row of the same column: exact ones word for word of the same "
        "image file, near ones of a similar image with nearly the same words. Images of a "
        "benchmark are those of its questions, the same file or nearly. R²: what a model that sees "
        "only the length explains of the row score."
    )
    head = ["", "pool", *(text(label) for label in audited)]
    return scrolled_table(head, rows) + tag("p", note, class_="notes")


def audit_of(line: Line, index: ResultIndex) -> dict[str, Any] | None:
    """The audit of a row's first subset, None where it was not audited."""
    subset = key_of(line.trainings[0].subset)
    for result in index.results.values():
        if result.kind == "audit" and key_of(result.config["subset"]) == subset:
            return json.loads(result.file("audit.json").read_text(encoding="utf-8"))
    return None


def _numbers(audited: dict[str, Any], *path: str) -> list[str]:
    """A number of the pool and of every subset, as text.

    Args:
        path: of the number in `audit.json`, without `pool` or `subset`, which may be a key at any
            depth of it.
    """
    cells = []
    first, *others = audited.values()
    for side, audit in [("pool", first), *(("subset", audit) for audit in (first, *others))]:
        value: Any = audit
        for name in path:
            if isinstance(value, dict) and side in value:
                value = value[side]
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, dict):
            value = value.get(side)
        cells.append(_NONE if value is None else f"{value:,.0f}")
    return cells


def _shares(audited: dict[str, Any], name: str) -> list[str]:
    """Per cent of the answers that have a format."""
    first = next(iter(audited.values()))
    sides = [first["formats"]["pool"], *(audit["formats"]["subset"] for audit in audited.values())]
    return [f"{100 * side[name] / max(sum(side.values()), 1):.1f} %" for side in sides]


def _overlaps(audited: dict[str, Any]) -> list[list[str]]:
    """Jaccard similarity with the subset of `audit.against`, where there was one."""
    overlaps = [audit.get("overlap") for audit in audited.values()]
    if not any(overlaps):
        return []
    return [
        [label, _NONE, *(_share(overlap and overlap[name]) for overlap in overlaps)]
        for label, name in (
            ("Jaccard with audit.against", "jaccard"),
            ("the same at random", "jaccard_at_random"),
        )
    ]


def _coverage(clusters: dict[str, Any] | None) -> str:
    return _NONE if clusters is None else f"{clusters['covered']:,} of {clusters['clusters']:,}"


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"
