"""Charts that W&B does not have, as Vega-Lite over the logged table.

`${field:x}` is what a panel fills in: every chart takes the columns of `FIELDS` by their own names.
"""

from typing import Any

from xmas.results.arp import ALL

FIELDS = ("selector", "budget", "benchmark", "relative", "relative_low", "relative_high")
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"


def _of(name: str) -> str:
    assert name in FIELDS
    return f"${{field:{name}}}"


def _value(name: str) -> str:
    """Of a row, in an expression."""
    return f"datum['{_of(name)}']"


_COLOUR = {"field": _of("selector"), "type": "nominal", "title": "selector"}
_HUNDRED = {"mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"y": {"datum": 100}}}


def _budget() -> dict[str, Any]:
    """ARP by budget, a line a selector, with the table's intervals."""
    across = {"field": _of("budget"), "type": "quantitative", "title": "budget"}
    up = {"type": "quantitative", "title": "ARP, % of full", "scale": {"zero": False}}
    subsets = f"{_value('benchmark')} === '{ALL}' && {_value('selector')} !== 'full'"
    band = {
        "mark": {"type": "area", "opacity": 0.15},
        "encoding": {
            "x": across,
            "y": {"field": _of("relative_low"), **up},
            "y2": {"field": _of("relative_high")},
            "color": _COLOUR,
        },
    }
    line = {
        "mark": {"type": "line", "point": True},
        "encoding": {"x": across, "y": {"field": _of("relative"), **up}, "color": _COLOUR},
    }
    return {
        "$schema": _SCHEMA,
        "title": "ARP against budget",
        "data": {"name": "wandb"},
        "transform": [{"filter": subsets}],
        "layer": [band, line, _HUNDRED],
    }


def _radar() -> dict[str, Any]:
    """Every benchmark relative to training on everything, a radar a budget, a line a selector."""
    benchmark, relative = _of("benchmark"), _value("relative")
    ends = {"scale": {"zero": False}, "axis": None, "type": "quantitative"}
    place = {"x": {"field": "across", **ends}, "y": {"field": "up", **ends}}
    rim = {"x": {"field": "rim_across", **ends}, "y": {"field": "rim_up", **ends}}
    around = {"order": {"field": "place", "type": "quantitative"}}
    line = {
        "mark": {"type": "line", "interpolate": "linear-closed", "point": True},
        "encoding": {**place, **around, "color": _COLOUR},
    }
    full = {
        "mark": {"type": "line", "interpolate": "linear-closed", "color": "#888"},
        "encoding": {**rim, **around},
    }
    names = {
        "mark": {"type": "text", "dy": -6},
        "encoding": {**rim, "text": {"aggregate": "min", "field": benchmark, "type": "nominal"}},
    }
    turns = [
        ("angle", "2 * PI * (datum.place - 1) / datum.count"),
        ("across", f"{relative} * sin(datum.angle)"),
        ("up", f"{relative} * cos(datum.angle)"),
        ("rim_across", "100 * sin(datum.angle)"),
        ("rim_up", "100 * cos(datum.angle)"),
    ]
    shown = (
        f"indexof({_value('benchmark')}, '{ALL}') < 0 && isValid({relative})"
        f" && {_value('selector')} !== 'full'"
    )
    ranked = {
        "window": [{"op": "dense_rank", "as": "place"}],
        "sort": [{"field": benchmark}],
    }
    counted = {"joinaggregate": [{"op": "distinct", "field": benchmark, "as": "count"}]}
    return {
        "$schema": _SCHEMA,
        "title": "Benchmarks, relative to full",
        "data": {"name": "wandb"},
        "transform": [
            {"filter": shown},
            ranked,
            counted,
            *({"calculate": how, "as": name} for name, how in turns),
        ],
        "facet": {"field": _of("budget"), "type": "ordinal", "title": "budget"},
        "columns": 2,
        "spec": {"width": 260, "height": 260, "layer": [full, line, names]},
    }


CHARTS: dict[str, dict[str, Any]] = {"xmas-budget": _budget(), "xmas-radar": _radar()}
