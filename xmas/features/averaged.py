"""Trajectories averaged over proxies of several seeds, in the place of one proxy's."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from xmas.features.trajectories import Trajectories
from xmas.store import Stage, Store


@dataclasses.dataclass(frozen=True)
class AveragedTrajectories(Trajectories):
    """`values.npy` (rows, steps, k) float32, the mean of several trajectories' values; `steps.npy`
    and `reasons.npy` of the first.

    The proxies differ in their seeds alone, so that snapshot s of one is snapshot s of another.
    What the order of batches brought into a trajectory is averaged out as one over their number.
    """

    kind: ClassVar[str] = "averaged_trajectories"
    version: ClassVar[int] = 1
    together: ClassVar[bool] = False

    others: Sequence[Trajectories] = ()

    @classmethod
    def of(cls, trajectories: Sequence[Trajectories]) -> "AveragedTrajectories":
        """The mean of one or more; fields are those of the first."""
        first, *others = trajectories
        return cls(first.proxy, first.spectra, first.running, tuple(others))

    def all(self) -> list[Trajectories]:
        """Those that are averaged."""
        return [Trajectories(self.proxy, self.spectra, self.running), *self.others]

    def inputs(self) -> list[Stage]:
        return list(self.all())

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: the proxies were saved at different steps."""
        folders = [store.get(stage) for stage in self.all()]
        steps = [np.load(folder / "steps.npy").tolist() for folder in folders]
        if any(of_one != steps[0] for of_one in steps):
            raise ValueError(f"trajectories at steps {steps} have no mean: give one schedule")
        mean = np.zeros_like(np.load(folders[0] / "values.npy"), dtype=np.float64)
        for folder in folders:
            mean += np.load(folder / "values.npy") / len(folders)
        np.save(out / "values.npy", mean.astype(np.float32))
        for name in ("steps.npy", "reasons.npy"):
            shutil.copyfile(folders[0] / name, out / name)
