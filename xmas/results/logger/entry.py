"""What is logged of a result, read from its files: settings, curves, numbers, an artifact.

A result is described by its files, not by its kind: a fit has `loss.csv`, snapshots
of attention have `statistics.json`, clusters `sizes.json`, a subset `manifest.json`, the scores of
a target `scores.json`. A result with none of these is not logged.
"""

import csv
import dataclasses
import json
from math import isnan
from pathlib import Path
from statistics import median
from typing import Any

from xmas.attention.statistics import flat
from xmas.results.arp import ALL
from xmas.results.leaderboard import leaderboards
from xmas.results.measured_costs import measured_cost
from xmas.results.score_records import TableError, runs
from xmas.store import Store
from xmas.store.index import AbsentError, Config, Result, ResultIndex, key_of
from xmas.store.integrity import check
from xmas.training.probe import logged

Number = float | int


@dataclasses.dataclass(frozen=True)
class Entry:
    """A run as loggers show it; `curves` has (step, values), `files` are for an artifact.

    `missing` has the names of numbers that the summary lacks, and why.
    """

    kind: str
    key: str
    name: str
    config: dict[str, Any]  # what runs are grouped by, and under `stage` the whole configuration
    curves: tuple[tuple[int, dict[str, Number]], ...] = ()
    summary: dict[str, Number] = dataclasses.field(default_factory=dict)
    files: tuple[Path, ...] = ()
    missing: dict[str, str] = dataclasses.field(default_factory=dict)


def entry_of(result: Result, store: Store) -> Entry | None:
    """None: the result has nothing to log. Raises DamagedResultError: a file is not as written."""
    check(result.folder)
    readers = {
        "loss.csv": _fit,
        "statistics.json": _spectra,
        "sizes.json": _sizes,
        "manifest.json": _mix,
        "scores.json": _scores,
    }
    reader = next((of for name, of in readers.items() if (result.folder / name).exists()), None)
    if reader is None:
        return None
    content = reader(result, store)
    facts = _facts(result, store)
    name = f"{facts['selector']} {100 * facts['budget']:g} %" if facts else result.key
    seed = f" seed {facts['seed']}" if facts else ""
    return Entry(
        kind=result.kind,
        key=result.key,
        name=f"{result.kind} {name}{seed}",
        config={**facts, "stage": result.config},
        curves=tuple(content.curves),
        summary={**content.summary, "seconds": result.seconds},
        files=content.files,
        missing=content.missing,
    )


@dataclasses.dataclass(frozen=True)
class _Content:
    """What a reader found in the files of a result; see `Entry`."""

    curves: list[tuple[int, dict[str, Number]]] = dataclasses.field(default_factory=list)
    summary: dict[str, Number] = dataclasses.field(default_factory=dict)
    files: tuple[Path, ...] = ()
    missing: dict[str, str] = dataclasses.field(default_factory=dict)


def _fit(result: Result, store: Store) -> _Content:
    with (result.folder / "loss.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    curves: list[tuple[int, dict[str, Number]]] = [
        (int(line["step"]), {name: float(value) for name, value in line.items() if name != "step"})
        for line in lines
    ]
    cost = result.folder / "cost.json"
    cost_entries = json.loads(cost.read_text()) if cost.exists() else {}
    last = {"last loss": curves[-1][1]["loss"]} if curves else {}
    return _Content(curves, {"steps": len(curves), **last, **cost_entries})


def _spectra(result: Result, store: Store) -> _Content:
    """Quantiles of the singular values, and R² against text length, by step."""
    steps = json.loads((result.folder / "statistics.json").read_text())
    curves: list[tuple[int, dict[str, Number]]] = [
        (int(step), {name: value for name, value in logged(flat(of)).items() if not isnan(value)})
        for step, of in steps.items()
    ]
    return _Content(curves, {"snapshots": len(curves)})


def _sizes(result: Result, store: Store) -> _Content:
    """Clusters from the largest, the step being the rank; the last one is rows without an image."""
    *sizes, without = json.loads((result.folder / "sizes.json").read_text())
    sizes.sort(reverse=True)
    curves: list[tuple[int, dict[str, Number]]] = [
        (rank, {"cluster/rows": size}) for rank, size in enumerate(sizes)
    ]
    summary: dict[str, Number] = {
        "clusters": len(sizes),
        "without image": without,
        "largest": sizes[0],
        "median": median(sizes),
        "smallest": sizes[-1],
    }
    return _Content(curves, summary)


def _mix(result: Result, store: Store) -> _Content:
    """Every source's share of the subset; the rows are the artifact."""
    manifest = _manifest(result.folder)
    rows = manifest["rows"]
    summary: dict[str, Number] = {"rows": rows, "text only": manifest["text_only"]}
    summary |= {f"mix/{name}": count / rows for name, count in manifest["sources"].items()}
    files = tuple(result.folder / name for name in ("rows.json", "manifest.json"))
    return _Content(summary=summary, files=files)


def _scores(result: Result, store: Store) -> _Content:
    """Scores; relative ones and ARP as in the table; hours of the selection and the training."""
    record = json.loads((result.folder / "scores.json").read_text())
    summary: dict[str, Number] = {
        f"score/{score['name']}": score["score"]
        for score in record["subset"]
        if score["score"] is not None
    }
    relative, missing = _relative({score["key"] for score in record["subset"]}, store)
    summary |= relative
    try:
        cost = measured_cost(ResultIndex(store), result.config["target"])
    except AbsentError:
        return _Content(summary=summary, missing=missing)
    hours = {
        "selection": cost.selection,
        "training": cost.seconds["target"],
        "total": cost.total,
    }
    summary |= {f"hours/{name}": seconds / 3600 for name, seconds in hours.items()}
    return _Content(summary=summary, missing=missing)


def _relative(scores: set[str], store: Store) -> tuple[dict[str, Number], dict[str, str]]:
    """Relative scores and every ARP of one training, in the leaderboard of its store.

    As in the table, ARP is over all benchmarks that any row of the leaderboard was scored on.

    Args:
        scores: keys of the training's scores.

    Returns:
        The numbers by name, and by the name of an average that is missing, why.
    """
    try:
        records = runs(store)
        own = [run for run in records if Path(run.folder).name in scores]
        groups = {(run.pool, run.reference_group, run.protocol) for run in own}
        boards = leaderboards(
            run for run in records if (run.pool, run.reference_group, run.protocol) in groups
        )
    except TableError as error:  # of any score in the store; it must not stop the training
        return {}, {ALL: str(error)}
    for board in boards:
        for row in board.rows:
            if any(run.folder == own[0].folder for run in row.runs):
                seed = own[0].seed
                values = {
                    **{f"relative/{name}": of for name, of in row.seed_relative[seed].items()},
                    **row.seed_arps[seed],
                }
                reasons = {name: board.why_no_arp(row, name, seed) for name in board.averages}
                return values, {name: "; ".join(why) for name, why in reasons.items() if why}
    return {}, {
        ALL: "the training is in no leaderboard: a control, or a second run of the reference"
    }


def _facts(result: Result, store: Store) -> dict[str, Any]:
    """Selector, budget and seed of a subset, and of what was trained on it."""
    config = result.config
    target = config.get("target", config)
    subset: Config = target.get("subset", config)
    folder = Path(store.root) / "subset" / key_of(subset)
    if "ranking" not in subset or not (folder / "manifest.json").exists():
        return {}
    manifest = _manifest(folder)
    return {
        "selector": manifest["selector"],
        "budget": manifest["rows"] / manifest["pool_rows"],
        "rows": manifest["rows"],
        "seed": manifest["seed"] if target is subset else int(target["seed"]),
    }


def _manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
