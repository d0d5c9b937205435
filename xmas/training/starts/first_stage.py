"""LLaVA's first stage: a projector learns captions between a tower and a language model at rest."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np

from xmas.data.pool import Pool
from xmas.models.assembled import Assembled
from xmas.models.chat.template import Plain
from xmas.models.chat.tokens import Tokenised
from xmas.models.projector import save_projector
from xmas.models.vision_cache import Pictures, image_stage, pictures_of
from xmas.models.vlm import LoadedModel, load
from xmas.store import Stage, Store, distributed, stages_of_fields, volatile
from xmas.training.fit.recipe import Hardware, Recipe
from xmas.training.fit.trainables import projector_alone
from xmas.training.fit.trainer import fit

FILE = "mm_projector.safetensors"


@dataclasses.dataclass(frozen=True)
class FirstStage(Stage):
    """`mm_projector.safetensors`, named as LLaVA names it, and `loss.csv`: for those who do not
    have LLaVA's own file.

    Source: LLaVA `scripts/v1_5/pretrain.sh`, 558k captions.
    """

    kind: ClassVar[str] = "first_stage"
    together: ClassVar[bool] = True

    start: Assembled  # without a projector of its own
    pool: Pool
    recipe: Recipe
    template: Plain = dataclasses.field(default_factory=Plain)
    max_length: int = 2048  # tokens of a row, the image counted
    seed: int = 0
    cache_vision: bool = False  # tower features once for all, on disk: for small images
    hardware: Hardware = volatile(default_factory=Hardware)

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

    def compute(self, store: Store, out: Path) -> None:
        table = self.tokens().open(store)
        parts = load(store.get(self.start))
        pictures = self.pictures(store, parts)
        model = projector_alone(parts.model, self.recipe.precision)
        fit(
            model,
            table,
            np.flatnonzero(table.answered),
            pictures,
            recipe=self.recipe,
            hardware=self.hardware,
            seed=self.seed,
            out=out,
            label="projector",
            pad=parts.tokenizer.pad_token_id,
            logger=store.follow(self),
        )
        if distributed.leads():
            save_projector(parts.model.model.multi_modal_projector, out / FILE)
