"""What there is to say about a result, read from its files: settings, curves, numbers, an artifact.

A result is described by the files that it has, whatever its kind: a fit has `loss.csv`, snapshots
of attention have `statistics.json`, clusters `sizes.json`, a subset `manifest.json`, the scores of
a target `scores.json`. A result with none of these is no entry.
"""

import csv
import dataclasses
import json
from math import isnan
from pathlib import Path
from statistics import fmean, median
from typing import Any

from xmas.attention.statistics import flat
from xmas.results.arp import averages
from xmas.results.measured_costs import measured_cost
from xmas.store import Store
from xmas.store.index import AbsentError, Config, Result, ResultIndex, key_of
from xmas.training.probe import logged

Number = float | int


@dataclasses.dataclass(frozen=True)
class Entry:
    """A run as loggers show it; `curves` has (step, values), `files` are for an artifact."""

    kind: str
    key: str
    name: str
    config: dict[str, Any]  # what runs are grouped by, and under `stage` the whole configuration
    curves: tuple[tuple[int, dict[str, Number]], ...] = ()
    summary: dict[str, Number] = dataclasses.field(default_factory=dict)
    files: tuple[Path, ...] = ()


def entry_of(result: Result, store: Store) -> Entry | None:
    """None: the result has nothing to say."""
    readers = {
        "loss.csv": _fit,
        "statistics.json": _spectra,
        "sizes.json": _sizes,
        "manifest.json": _mix,
        "scores.json": _scores,
    }
    found = [reader for name, reader in readers.items() if (result.folder / name).exists()]
    if not found:
        return None
    curves, summary, files = found[0](result, store)
    facts = _facts(result, store)
    told = f"{facts['selector']} {100 * facts['budget']:g} %" if facts else result.key
    seed = f" seed {facts['seed']}" if facts else ""
    return Entry(
        kind=result.kind,
        key=result.key,
        name=f"{result.kind} {told}{seed}",
        config={**facts, "stage": result.config},
        curves=tuple(curves),
        summary={**summary, "seconds": result.seconds},
        files=files,
    )


_Read = tuple[list[tuple[int, dict[str, Number]]], dict[str, Number], tuple[Path, ...]]


def _fit(result: Result, store: Store) -> _Read:
    with (result.folder / "loss.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    curves = [
        (int(line["step"]), {name: float(held) for name, held in line.items() if name != "step"})
        for line in lines
    ]
    cost = result.folder / "cost.json"
    counted = json.loads(cost.read_text()) if cost.exists() else {}
    last = {"last loss": curves[-1][1]["loss"]} if curves else {}
    return curves, {"steps": len(curves), **last, **counted}, ()


def _spectra(result: Result, store: Store) -> _Read:
    """Quantiles of the singular values, and R² against text length, by step."""
    found = json.loads((result.folder / "statistics.json").read_text())
    curves = [
        (int(step), {name: held for name, held in logged(flat(said)).items() if not isnan(held)})
        for step, said in found.items()
    ]
    return curves, {"snapshots": len(curves)}, ()


def _sizes(result: Result, store: Store) -> _Read:
    """Clusters from the largest, the step being the rank; the last one is rows without an image."""
    *sizes, without = json.loads((result.folder / "sizes.json").read_text())
    sizes.sort(reverse=True)
    curves: list[tuple[int, dict[str, Number]]] = [
        (rank, {"cluster/rows": size}) for rank, size in enumerate(sizes)
    ]
    told = {"largest": sizes[0], "median": median(sizes), "smallest": sizes[-1]}
    return curves, {"clusters": len(sizes), "without image": without, **told}, ()


def _mix(result: Result, store: Store) -> _Read:
    """Every source's share of the subset; the rows are the artifact."""
    said = _manifest(result)
    mix = {f"mix/{name}": count / said["rows"] for name, count in said["sources"].items()}
    counts = {"rows": said["rows"], "text only": said["text_only"]}
    return [], counts | mix, tuple(result.folder / name for name in ("rows.json", "manifest.json"))


def _scores(result: Result, store: Store) -> _Read:
    """Scores, relative ones and ARP as in the table; hours of the selection and the training."""
    said = json.loads((result.folder / "scores.json").read_text())
    given = {one["name"]: one["score"] for one in said["subset"]}
    summary: dict[str, Number] = {
        f"score/{name}": held for name, held in given.items() if held is not None
    }
    relative = {}
    for name, held in given.items():
        whole = [one["score"] for one in said["reference"] if one["name"] == name]
        known = [score for score in whole if score is not None]
        if held is not None and known and fmean(known) > 0:
            relative[name] = 100 * held / fmean(known)
    summary |= {f"relative/{name}": held for name, held in relative.items()}
    for name, which in averages(tuple(given)).items():
        if all(each in relative for each in which):
            summary[name] = fmean(relative[each] for each in which)
    try:
        spent = measured_cost(ResultIndex(store), result.config["target"])
    except AbsentError:
        return [], summary, ()
    hours = {
        "selection": spent.selection,
        "training": spent.seconds["target"],
        "total": spent.total,
    }
    return [], summary | {f"hours/{name}": held / 3600 for name, held in hours.items()}, ()


def _facts(result: Result, store: Store) -> dict[str, Any]:
    """Selector, budget and seed of a subset and of what was made from it."""
    config = result.config
    target = config.get("target", config)
    subset: Config = target.get("subset", config)
    folder = Path(store.root) / "subset" / key_of(subset)
    if "ranking" not in subset or not (folder / "manifest.json").exists():
        return {}
    said = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return {
        "selector": said["selector"],
        "budget": said["rows"] / said["pool_rows"],
        "rows": said["rows"],
        "seed": said["seed"] if target is subset else int(target["seed"]),
    }


def _manifest(result: Result) -> dict[str, Any]:
    return json.loads((result.folder / "manifest.json").read_text(encoding="utf-8"))
