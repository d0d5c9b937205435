"""The proxy: a small vision-language model fitted to the pool, its weights saved at snapshots."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from safetensors.torch import load_file
from torch import Tensor

from xmas.data.pool import Pool
from xmas.models.chat.own_template import OwnTemplate
from xmas.models.chat.template import Template
from xmas.models.start_point import StartPoint
from xmas.models.vlm import LoadedModel, freeze_tower
from xmas.store import Stage, Store, volatile
from xmas.training.fit.recipe import Hardware, Recipe
from xmas.training.model_on_pool import ModelOnPool, fit_on_pool, load_at
from xmas.training.probe import SavedSteps, schedule


@dataclasses.dataclass(frozen=True)
class Proxy(ModelOnPool, Stage):
    """`steps/<step>/trained.safetensors` for every snapshot, `loss.csv`.

    The language model and the connector train in full, the tower stays frozen.
    Source: XMAS release, `train_stablelm.sh` (recipe "base").
    """

    kind: ClassVar[str] = "proxy"
    together: ClassVar[bool] = True

    pool: Pool
    start: StartPoint
    recipe: Recipe
    template: Template | OwnTemplate = dataclasses.field(default_factory=Template)
    snapshots: int = 7  # steps whose weights are saved; project page of XMAS
    seed: int = 0
    cache_vision: bool = True  # tower features computed once and kept on disk
    max_length: int = 2048  # tokens of a row, the image counted
    hardware: Hardware = volatile(default_factory=Hardware)
    model: str | None = volatile(None)  # what the configuration calls the weights of `start`
    callbacks: Sequence[Callback] = volatile(())  # of the fit, in addition to its own
    logger: Logger | None = volatile(None)  # of the fit; null: the store's run logger

    def steps(self, store: Store) -> list[int]:
        """The optimiser steps whose weights are saved."""
        rows = int(self.tokens().open(store).answered.sum())
        return schedule(self.recipe.steps(rows), self.snapshots)

    def weights_at(self, store: Store, step: int) -> dict[str, Tensor]:
        """The trained weights after an optimiser step, by name."""
        return load_file(store.get(self) / "steps" / str(step) / "trained.safetensors")

    def load(self, store: Store, step: int) -> LoadedModel:
        """The model as it was after an optimiser step.

        Raises ValueError: its weights belong to another model.
        """
        return load_at(self, store, step)

    def compute(self, store: Store, out: Path) -> None:
        fit_on_pool(
            self,
            store,
            out,
            lambda loaded: freeze_tower(loaded.model),
            label="proxy",
            callbacks=[SavedSteps(self.steps(store), out / "steps"), *self.callbacks],
            logger=self.logger or store.fit_logger(self),
        )
