"""The costs of all stages of a goal, each with what is known of it in the store."""

import dataclasses
import json
from collections.abc import Iterable

import xmas.estimate.audits
import xmas.estimate.clip
import xmas.estimate.clusters
import xmas.estimate.concepts
import xmas.estimate.files
import xmas.estimate.fits
import xmas.estimate.losses
import xmas.estimate.passes  # noqa: F401  # they register what stages cost
from xmas.data.rows import PoolError
from xmas.estimate.work import Scene, Work, work
from xmas.models.shape import ShapelessError
from xmas.store import Stage, key
from xmas.training.fit.recipe import Hardware

_listed: set[tuple[str, str, str]] = set()  # by the jobs of this process: a sweep shares stages


@dataclasses.dataclass(frozen=True)
class Item:
    """A stage and what it costs. `state`: to do, begun, files absent; in store, or
    shared with an earlier job of a sweep.
    """

    stage: Stage
    work: Work | None  # None: nobody has said
    hardware: Hardware
    state: str
    measured: float | None = None  # seconds it took, where it is there

    @property
    def device_seconds(self) -> float:
        """Wall time on all devices, added up; of the host where no device is used."""
        if self.work is None:
            return 0.0
        devices = self.hardware.devices if self.work.flops else 1
        return self.work.seconds(self.hardware) * devices

    @property
    def due(self) -> bool:
        """It would be computed now."""
        return self.state in ("to do", "begun", "files absent")


def itemise(stages: Iterable[Stage], scene: Scene) -> list[Item]:
    """One item for every stage, in the order given."""
    return [_item(stage, scene) for stage in stages]


def estimated_work(stage: Stage, scene: Scene) -> Work | None:
    """What a stage costs; None where nobody has said, or its start point has no shape."""
    try:
        return work(stage, scene)
    except ShapelessError:
        return None


def _item(stage: Stage, scene: Scene) -> Item:
    hardware = getattr(stage, "hardware", None)
    if hardware is None or hardware.device is None:
        hardware = scene.hardware
    costs = estimated_work(stage, scene)
    try:
        place = scene.store.path(stage)
    except (OSError, PoolError):  # its identity is the content of files that are not there
        return Item(stage, costs, hardware, "files absent")
    meta = place / "meta.json"
    if meta.exists():
        seconds = json.loads(meta.read_text())["seconds"]
        return Item(stage, costs, hardware, "in store", seconds)
    name = (scene.store.root, stage.kind, key(stage))
    if name in _listed:
        return Item(stage, costs, hardware, "shared")
    _listed.add(name)
    begun = place.with_name(f".{place.name}").exists()
    return Item(stage, costs, hardware, "begun" if begun else "to do")
