"""What made a result, in a few words, for lists of results and for readable names of folders.

Everything is read from the fields that made the result, so a new selector, stage or benchmark needs
no entry here: `xmas, 10 %, seed 0, pool demo` or `of proxy, 7 snapshots, pool demo`.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xmas.store.stage import Stage, type_name

_BUDGETS = {"tokens": "{:,.0f} tokens", "rows": "{:,.0f} rows", "fraction": "{:.4g} %"}
_COUNTS = 2  # numbers in the fields of a stage that its label shows
_LONGEST = 100  # bytes of a link's name; file systems allow 255


def label(made_from: Stage | Mapping[str, Any]) -> str:
    """A stage, or the configuration in a `meta.json`, in a few words.

    A stage says more: a pool's name is no part of its identity and so not in the configuration.

    >>> label({"type": "Subset", "version": 2, "fraction": 0.1, "ranking": {
    ...     "type": "Ranking", "version": 2, "seed": 3.0, "selector": {"type": "ClipScore"},
    ...     "pool": {"pool": {"sha256": "f83e0b64c1"}}}})
    'clip_score, 10 %, seed 3, pool f83e0b'
    """
    root = _fields(made_from)
    if isinstance(root.get("selectors"), Mapping):
        return ", ".join([*root["selectors"], f"pool {_pool(root['pool'])}"])
    lineage = _lineage(root)
    selected = "selector" in lineage[-1]
    parts = [*_benchmark(root), *_format(root)]
    if any(node.get("untrained") for node in lineage):
        parts.append("untrained")
    elif selected:
        parts += [_snake(_fields(lineage[-1]["selector"])), *_budget(lineage)]
    else:
        parts += [*_inputs(root), *_counts(root)]
    seeds = [node["seed"] for node in lineage if isinstance(node.get("seed"), int | float)]
    parts += [f"seed {seeds[0]:g}"] if seeds else []
    parts += [f"pool {_pool(lineage[-1]['pool'])}"] if "pool" in lineage[-1] else []
    return ", ".join(parts)


def file_name(text: str) -> str:
    """A label as a file's name: `xmas-10%-seed0-demo`.

    Characters with a meaning for file systems and shells become `_`; a long name is cut.

    >>> file_name("xmas, 10 %, seed 0, pool my/pool")
    'xmas-10%-seed0-my_pool'
    """
    parts = [part.removeprefix("pool ").replace(",", "") for part in text.split(", ")]
    close = re.sub(r" (?=%|[\d.]+(-|$))", "", "-".join(parts))
    plain = re.sub(r"[^\w.%=+-]+", "_", close).lstrip(".-")
    return plain.encode()[:_LONGEST].decode(errors="ignore")


def _fields(node: Any) -> dict[str, Any]:
    """The fields of a dataclass or of a described one; those of volatile ones are left out, unless
    corrections name them.
    """
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        named = getattr(node, "corrections", dict)()
        fields = [
            field
            for field in dataclasses.fields(node)
            if field.metadata.get("identity") != "none" or field.name in named
        ]
        values = {field.name: getattr(node, field.name) for field in fields}
        version = {"version": node.version} if isinstance(node, Stage) else {}
        return {"type": type_name(type(node)), **version, **values}
    if isinstance(node, Mapping):
        return dict(node)
    elements = node if isinstance(node, list | tuple) else []
    return {str(place): element for place, element in enumerate(elements)}


def _lineage(root: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes from the root to the one that has the pool: next to a selector, if there is one.

    The start point of a target has a pool as well, nearer to the root: it selects nothing.
    """
    nearest = None
    for lineage in _breadth_first(root):
        if "type" in lineage[-1] and "pool" in lineage[-1]:
            if "selector" in lineage[-1]:
                return lineage
            nearest = nearest or lineage
    return nearest or [root]


def _breadth_first(root: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    level = [[root]]
    while level:
        yield from level
        level = [
            [*lineage, fields]
            for lineage in level
            for child in lineage[-1].values()
            if (fields := _fields(child))
        ]


def _benchmark(root: dict[str, Any]) -> list[str]:
    """Name and split; of a benchmark made of another one, such as a part of it, both names."""
    words: list[str] = []
    node = _fields(root.get("benchmark"))
    while node:
        words.append(_snake(node))
        if isinstance(node.get("split"), str):
            words.append(node["split"])
            break
        node = next((inner for part in node.values() if "split" in (inner := _fields(part))), {})
    return [" ".join(words)] if words else []


def _format(root: dict[str, Any]) -> list[str]:
    """The trainer's format of the files of a subset."""
    return [root["format"]] if isinstance(root.get("format"), str) else []


def _budget(lineage: list[dict[str, Any]]) -> list[str]:
    for node in lineage:
        for unit, form in _BUDGETS.items():
            amount = node.get(unit)
            if isinstance(amount, int | float) and "ranking" in node:
                return [form.format(100 * amount if unit == "fraction" else amount)]
    return []


def _inputs(root: dict[str, Any]) -> list[str]:
    """The stages whose results it is made from, its start point left out."""
    stages = [_fields(node) for name, node in root.items() if name != "start"]
    names = [_snake(node) for node in stages if "version" in node and "type" in node]
    return [f"of {' and '.join(names)}"] if names else []


def _counts(root: dict[str, Any]) -> list[str]:
    numbers = {
        str(name): number
        for name, number in root.items()
        if isinstance(number, int | float)
        and not isinstance(number, bool)
        and name not in ("version", "seed")
    }
    return [
        f"{number:,g} {name}" if name.endswith("s") else f"{name} {number:,g}"
        for name, number in list(numbers.items())[:_COUNTS]
    ]


def _pool(pool: Any) -> str:
    name = getattr(pool, "name", None)
    if isinstance(name, str):
        return name
    identity = _fields(_fields(pool).get("pool"))
    if "stage" in identity:  # a file made by a stage
        made_by, file = _snake(_fields(identity["stage"])), Path(str(identity.get("name"))).stem
        return made_by if made_by.endswith(file) else f"{made_by}/{file}"
    return str(identity.get("sha256", "of unknown content"))[:6]


def _snake(node: dict[str, Any]) -> str:
    """`ClipScore` is `clip_score`, `MMBench` is `mmbench`; of a dotted name the last part."""
    name = str(node.get("type", "")).rsplit(".", 1)[-1]
    return re.sub(r"(?<=[a-z\d])(?=[A-Z])", "_", name).lower()
