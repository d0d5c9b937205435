"""The estimated costs of the stages of a goal, each with its state in the store."""

import dataclasses
from collections.abc import Iterable

from xmas.data.rows import PoolError
from xmas.estimate.per_stage import work
from xmas.estimate.work import Context, Work
from xmas.models.shape import ShapelessError
from xmas.store import Stage, key
from xmas.store.integrity import meta_of
from xmas.training.fit.recipe import Hardware

_listed: set[tuple[str, str, str]] = set()  # by the jobs of this process: a sweep shares stages


@dataclasses.dataclass(frozen=True)
class StageEstimate:
    """A stage, its estimated costs and its state.

    `state`: "to do", "begun", "files absent" (an input file is missing, so it has no key yet), "in
    store", or "shared" with an earlier job of the sweep.
    """

    stage: Stage
    work: Work | None  # None: unknown
    hardware: Hardware
    state: str
    measured: float | None = None  # seconds it took, if it is in the store

    @property
    def wall_seconds(self) -> float:
        """From beginning to end, on all devices that the hardware setting names."""
        if self.work is None:
            return 0.0
        return _wall_seconds(self.stage, self.work, self.hardware)

    @property
    def device_seconds(self) -> float:
        """Wall seconds of all accelerators together, those included that wait while one computes;
        0 for a stage of the host alone.
        """
        if self.work is None or not self.work.flops or self.hardware.accelerator == "cpu":
            return 0.0
        return self.wall_seconds * self.hardware.world

    @property
    def due(self) -> bool:
        """Whether it would be computed now."""
        return self.state in ("to do", "begun", "files absent")


def estimate_stages(stages: Iterable[Stage], context: Context) -> list[StageEstimate]:
    """One estimate for every stage, in the given order."""
    return [_estimate(stage, context) for stage in stages]


def estimated_work(stage: Stage, context: Context) -> Work | None:
    """What a stage costs; None if its type has no cost function, or its model no known shape."""
    try:
        return work(stage, context)
    except ShapelessError:
        return None


def seconds_of(stage: Stage, context: Context) -> float | None:
    """Wall seconds of a stage; None where its cost is unknown."""
    costs = estimated_work(stage, context)
    return None if costs is None else _wall_seconds(stage, costs, _hardware(stage, context))


def _wall_seconds(stage: Stage, costs: Work, hardware: Hardware) -> float:
    """On all devices, or on one for a stage that ranks do not compute together."""
    alone = dataclasses.replace(hardware, devices=1, nodes=1)
    return costs.seconds(hardware if stage.together else alone)


def _hardware(stage: Stage, context: Context) -> Hardware:
    """The stage's own, where it has a device."""
    hardware = getattr(stage, "hardware", None)
    return context.hardware if hardware is None or hardware.device is None else hardware


def _estimate(stage: Stage, context: Context) -> StageEstimate:
    hardware = _hardware(stage, context)
    costs = estimated_work(stage, context)
    try:
        folder = context.store.path(stage)
    except (OSError, PoolError):  # its identity is the content of files that are not there
        return StageEstimate(stage, costs, hardware, "files absent")
    if folder.exists():
        return StageEstimate(stage, costs, hardware, "in store", meta_of(folder)["seconds"])
    name = (context.store.root, stage.kind, key(stage))
    if name in _listed:
        return StageEstimate(stage, costs, hardware, "shared")
    _listed.add(name)
    begun = folder.with_name(f".{folder.name}").exists()
    return StageEstimate(stage, costs, hardware, "begun" if begun else "to do")
