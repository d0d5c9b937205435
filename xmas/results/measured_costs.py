"""What trainings cost: device time of every part, from the records of a store.

A stage's record counts its own seconds only, so the parts of a run can be added up. What the target
itself asks for besides its subset (pool, start, tokens, tower features) is left out: every method
pays it.
"""

import dataclasses
from collections.abc import Sequence
from statistics import fmean

from xmas.store.index import Config, Result, ResultIndex, key_of

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
    for result in selected_by(index, target).values():
        seconds[_OF_KIND.get(result.kind, "features")] += result.device_seconds
        devices.add(result.device)
    return Cost(seconds, frozenset(devices))


def selected_by(index: ResultIndex, target: Config) -> dict[str, Result]:
    """What the subset of a target was made from, without what any subset of the pool needs, by key.

    Any training asks for the same pool, start, tokens and tower features as this one.
    """
    trained = index.result(target, "target")
    subset = key_of(target["subset"])
    alike = index.inside(target["subset"]["ranking"]["pool"])
    alike |= index.made_from([key for key in trained.inputs if key != subset], described=[target])
    return {
        key: result for key, result in index.inside(target["subset"]).items() if key not in alike
    }
