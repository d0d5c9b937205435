"""The proxy: a small LVLM fitted to the pool, its weights kept at several steps."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
from lightning.pytorch.loggers import Logger
from safetensors.torch import load_file
from torch import Tensor, nn

from xmas.data.pool import Pool
from xmas.models.chat.template import Template
from xmas.models.chat.tokens import Tokenised
from xmas.models.vision_cache import Pictures, image_stage, pictures_of
from xmas.models.vlm import LoadedModel, freeze_tower, load
from xmas.store import Stage, Store, stages_of_fields, volatile
from xmas.training.fit.recipe import Hardware, Recipe
from xmas.training.fit.trainer import fit
from xmas.training.probe import AttentionProbe, SavedSteps, Snapshots, schedule
from xmas.training.starts.start_point import StartPoint

Measure = Callable[[nn.Module, int], dict[str, float] | None]


@dataclasses.dataclass(frozen=True)
class Proxy(Stage):
    """`steps/<step>/trained.safetensors` for every snapshot, `loss.csv`.

    The language model and the connector train in full, the tower stays frozen.
    Source: XMAS release, `train_stablelm.sh` (recipe "base").
    """

    kind: ClassVar[str] = "proxy"
    together: ClassVar[bool] = True

    pool: Pool
    start: StartPoint
    recipe: Recipe
    template: Template = dataclasses.field(default_factory=Template)
    snapshots: int = 7  # steps whose weights are kept, project page of XMAS
    seed: int = 0
    cache_vision: bool = True  # tower features once for all, on disk
    max_length: int = 2048  # tokens of a row, the image counted
    hardware: Hardware = volatile(default_factory=Hardware)
    measure: Measure | None = volatile(None)  # called at every snapshot of a fit
    logger: Logger | None = volatile(None)  # Lightning's; gets what is measured

    def tokens(self) -> Tokenised:
        return Tokenised(
            self.pool, self.start.tokenizer, self.template, self.start.image, self.max_length
        )

    def pictures(self, store: Store, parts: LoadedModel) -> Pictures:
        return pictures_of(
            self.pool, self.start.tower, parts.processor, store, cached=self.cache_vision
        )

    def inputs(self) -> list[Stage]:
        images = image_stage(self.pool, self.start.tower, cached=self.cache_vision)
        return [*stages_of_fields(self), self.tokens(), images]

    def steps(self, store: Store) -> list[int]:
        """The optimiser steps whose weights are kept."""
        rows = int(self.tokens().open(store).answered.sum())
        return schedule(self.recipe.steps(rows), self.snapshots)

    def weights_at(self, store: Store, step: int) -> dict[str, Tensor]:
        """What had been trained behind an optimiser step, by name."""
        return load_file(store.get(self) / "steps" / str(step) / "trained.safetensors")

    def load(self, store: Store, step: int) -> LoadedModel:
        """The model as it was behind an optimiser step."""
        parts = load(store.get(self.start))
        left = parts.model.load_state_dict(self.weights_at(store, step), strict=False)
        if left.unexpected_keys:
            raise ValueError(f"proxy step {step}: no place for weights {left.unexpected_keys}")
        return parts

    def compute(self, store: Store, out: Path) -> None:
        table = self.tokens().open(store)
        parts = load(store.get(self.start))
        pictures = self.pictures(store, parts)
        freeze_tower(parts.model)
        steps = self.steps(store)
        callbacks: list[Snapshots] = [SavedSteps(steps, out / "steps")]
        if self.measure is not None:
            callbacks.append(AttentionProbe(steps, self.measure))
        fit(
            parts.model,
            table,
            np.flatnonzero(table.answered),
            pictures,
            recipe=self.recipe,
            hardware=self.hardware,
            seed=self.seed,
            out=out,
            label="proxy",
            pad=parts.tokenizer.pad_token_id,
            callbacks=callbacks,
            logger=self.logger or store.follow(self),
        )
