"""What trainings cost: device time of every part, from the records of a store.

A stage's record counts its own seconds only, so the parts of a run can be added up. What every run
needs alike, pool, start, tokens and tower features, is left out: it would be paid for any method.
"""

import dataclasses
import json
from collections.abc import Sequence
from statistics import fmean

from xmas.store.index import Config, Result, ResultIndex

PARTS = {
    "proxy": "fitting the proxy",
    "attention": "attention of all rows",
    "features": "other features",
    "ranking": "clusters, ranking, cut",
    "target": "training the target",
}
_OF_KIND = {
    "proxy": "proxy", "trajectories": "attention", "clusters": "ranking", "ranking": "ranking",
    "subset": "ranking",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds by part of `PARTS`, times the devices that were at work; which devices these were."""

    seconds: dict[str, float]
    devices: frozenset[str] = frozenset()

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def selection(self) -> float:
        """All but the training of the target."""
        return self.total - self.seconds["target"]

    @classmethod
    def mean(cls, costs: Sequence["Cost"]) -> "Cost":
        return cls(
            {part: fmean(cost.seconds[part] for cost in costs) for part in PARTS},
            frozenset().union(*(cost.devices for cost in costs)),
        )


def measured_cost(index: ResultIndex, target: Config) -> Cost:
    """What one training cost, from the pool to the trained target.

    Raises AbsentError: its target is no longer in the store.
    """
    trained = index.result(target, "target")
    seconds = dict.fromkeys(PARTS, 0.0) | {"target": trained.device_seconds}
    devices = {trained.device}
    pool = target["subset"]["ranking"]["pool"]
    alike = {**index.inside(target["start"]), **index.inside(pool)}
    for result in index.inside(target["subset"]).values():
        if result.key in alike:
            continue
        seconds[_OF_KIND.get(result.kind, "features")] += result.device_seconds
        devices.add(result.device)
        if result.kind == "proxy":
            seconds["proxy"] -= _scanned(index, result) * result.devices
        elif result.kind == "trajectories":
            seconds["attention"] += scan_seconds(index, result) * result.devices
    return Cost(seconds, frozenset(devices))


def scan_seconds(index: ResultIndex, trajectories: Result) -> float:
    """Seconds of attention scans that ran inside the proxy's fit and stand in its record.

    `scan_seconds.json` has the seconds by step. Scans of saved steps are in the stage's own record
    already: then that is at least their sum, and nothing is moved.
    """
    path = trajectories.folder / "scan_seconds.json"
    if not path.exists():
        return 0.0
    total = sum(json.loads(path.read_text()).values())
    return 0.0 if trajectories.seconds >= total else total


def _scanned(index: ResultIndex, proxy: Result) -> float:
    """Seconds of scans in the record of a proxy, whoever asked for them."""
    return sum(
        scan_seconds(index, result)
        for result in index.results.values()
        if result.kind == "trajectories" and result.config.get("proxy") == proxy.config
    )
