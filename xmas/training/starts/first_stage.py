"""LLaVA's first stage: a projector learns captions between a frozen tower and language model."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from xmas.data.pool import Pool
from xmas.models.assembled import Assembled
from xmas.models.chat.template import Plain
from xmas.models.projector import save_projector
from xmas.store import Stage, Store, distributed, volatile
from xmas.training.fit.recipe import Hardware, Recipe
from xmas.training.fit.trainables import casts, projector_alone
from xmas.training.model_on_pool import ModelOnPool, fit_on_pool

FILE = "mm_projector.safetensors"


@dataclasses.dataclass(frozen=True)
class FirstStage(ModelOnPool, Stage):
    """`mm_projector.safetensors`, named as LLaVA names it, and `loss.csv`: to use where
    LLaVA's own file is not at hand.

    Source: LLaVA `scripts/v1_5/pretrain.sh`, 558k captions.
    """

    kind: ClassVar[str] = "first_stage"
    together: ClassVar[bool] = True

    start: Assembled  # without a projector
    pool: Pool
    recipe: Recipe
    template: Plain = dataclasses.field(default_factory=Plain)
    max_length: int = 2048  # tokens of a row, the image counted
    seed: int = 0
    cache_vision: bool = False  # tower features computed once and kept on disk: for small images
    hardware: Hardware = volatile(default_factory=Hardware)

    def corrections(self) -> dict[str, Any]:
        """Where frozen weights have 16 bits, rotary frequencies stay float32."""
        buffers = {"buffers": "float32"} if casts(self.recipe.precision) else {}
        return super().corrections() | buffers

    def compute(self, store: Store, out: Path) -> None:
        loaded, _ = fit_on_pool(
            self,
            store,
            out,
            lambda loaded: projector_alone(loaded.model, self.recipe.precision),
            label="projector",
            logger=store.fit_logger(self),
        )
        if distributed.leads():
            save_projector(loaded.model.model.multi_modal_projector, out / FILE)
