"""Charts that W&B does not have, as Vega-Lite over the logged table.

`${field:x}` is what a panel fills in: every chart takes the columns of `FIELDS` by their own names.
Charts have no numbers: W&B binds the table when somebody opens the dashboard. What the curves of
ARP show is in `results.curves`, from which the report draws its own.
"""

from typing import Any

from xmas.results.arp import ALL
from xmas.results.curves import CURVES, Curve
from xmas.results.leaderboard import REFERENCE

FIELDS = (
    "selector", "budget", "benchmark", "relative", "relative_low", "relative_high",
    "selection_hours", "training_hours",
)  # fmt: skip
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"


def _of(name: str) -> str:
    assert name in FIELDS
    return f"${{field:{name}}}"


def _value(name: str) -> str:
    """Of a row, in an expression."""
    return f"datum['{_of(name)}']"


_COLOUR = {"field": _of("selector"), "type": "nominal", "title": "selector"}
_HUNDRED = {"mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"y": {"datum": 100}}}


def _curve(curve: Curve) -> dict[str, Any]:
    """A line for every selector through its budgets; a band where the curve has intervals."""
    places = " + ".join(_value(name) for name in curve.x)
    zero = {"scale": {"zero": curve.starts_at_zero}}
    across = {"field": "place", "type": "quantitative", "title": curve.x_title, **zero}
    up = {"type": "quantitative", "title": curve.y_title, "scale": {"zero": False}}
    # A cell that is empty in the table is null, which an expression would take for 0.
    has_point = " && ".join(f"isValid({_value(name)})" for name in (*curve.x, curve.y))
    rows = f"{_value('benchmark')} === '{ALL}' && {_value('selector')} !== '{REFERENCE}'"
    band = {
        "mark": {"type": "area", "opacity": 0.15},
        "encoding": {
            "x": across,
            "y": {"field": _of(f"{curve.y}_low"), **up},
            "y2": {"field": _of(f"{curve.y}_high")},
            "color": _COLOUR,
        },
    }
    line = {
        "mark": {"type": "line", "point": True},
        "encoding": {
            "x": across,
            "y": {"field": _of(curve.y), **up},
            "order": {"field": _of("budget"), "type": "quantitative"},
            "color": _COLOUR,
        },
    }
    return {
        "$schema": _SCHEMA,
        "title": curve.title,
        "data": {"name": "wandb"},
        "transform": [{"filter": f"{rows} && {has_point}"}, {"calculate": places, "as": "place"}],
        "layer": [*([band] if curve.interval else []), line, _HUNDRED],
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
    rows = (
        f"indexof({_value('benchmark')}, '{ALL}') < 0 && isValid({relative})"
        f" && {_value('selector')} !== '{REFERENCE}'"
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
            {"filter": rows},
            ranked,
            counted,
            *({"calculate": how, "as": name} for name, how in turns),
        ],
        "facet": {"field": _of("budget"), "type": "ordinal", "title": "budget"},
        "columns": 2,
        "spec": {"width": 260, "height": 260, "layer": [full, line, names]},
    }


CHARTS: dict[str, dict[str, Any]] = {
    **{curve.name: _curve(curve) for curve in CURVES},
    "xmas-radar": _radar(),
}
