"""The target: a LLaVA fine-tuned on a subset, with LoRA or in full."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
from jaxtyping import Int
from torch import Tensor, nn

from xmas.models.chat.template import Template
from xmas.models.chat.tokens import Tokenised
from xmas.models.families import Exportable, family_of
from xmas.models.vision_cache import Pictures, image_stage, pictures_of
from xmas.models.vlm import LoadedModel, freeze_tower, load
from xmas.selection.subset import Subset
from xmas.store import (
    Stage,
    Store,
    distributed,
    nearest_stages,
    stages_of_fields,
    volatile,
    write_atomically,
)
from xmas.target.hf_folder import describe
from xmas.training.fit.recipe import Hardware, Recipe
from xmas.training.fit.trainables import Lora, merge_adapter, trainable, trained_weights
from xmas.training.fit.trainer import fit
from xmas.training.starts.start_point import StartPoint
from xmas.training.starts.tuned import refuse_tuned

if TYPE_CHECKING:
    from peft import PeftModel


@dataclasses.dataclass(frozen=True)
class Target(Stage):
    """`adapter/`, a PEFT folder with LoRA and projector, or `trained.safetensors`, all that trained
    in full; `loss.csv`; `cost.json`, rows and tokens of an epoch. Seconds are in `meta.json`.

    A run on a subset changes the data only: as many epochs over fewer rows, so fewer steps.
    """

    kind: ClassVar[str] = "target"
    version: ClassVar[int] = 3  # under mixed precisions what is frozen has 16 bits
    together: ClassVar[bool] = True

    subset: Subset
    start: StartPoint
    recipe: Recipe
    lora: Lora | None = dataclasses.field(default_factory=Lora)  # null: all but the tower
    template: Template = dataclasses.field(default_factory=Template)
    seed: int = 0
    cache_vision: bool = False  # tower features once for all, on disk: for small images
    max_length: int = 2048  # tokens of a row, the image counted
    from_tuned: bool = False  # start from a model that is tuned on instructions already
    weights: str = volatile("published")  # what the configuration calls those of `start`
    hardware: Hardware = volatile(default_factory=Hardware)

    def tokens(self) -> Tokenised:
        """All rows of the pool, chosen or not."""
        pool = self.subset.ranking.pool
        return Tokenised(
            pool, self.start.tokenizer, self.template, self.start.image, self.max_length
        )

    def pictures(self, store: Store, parts: LoadedModel) -> Pictures:
        pool = self.subset.ranking.pool
        return pictures_of(pool, self.start.tower, parts.processor, store, cached=self.cache_vision)

    def inputs(self) -> list[Stage]:
        pool = self.subset.ranking.pool
        images = image_stage(pool, self.start.tower, cached=self.cache_vision)
        return [*stages_of_fields(self), *nearest_stages(pool), self.tokens(), images]

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: the start point was tuned on instructions; or as `fit` does."""
        import torch

        if not self.from_tuned:
            refuse_tuned(self.start, store)
        table = self.tokens().open(store)
        rows = self._rows(store)
        parts = load(store.get(self.start))
        pictures = self.pictures(store, parts)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = trainable(parts.model, self.lora, self.recipe.precision)
        if distributed.leads():
            self._dry_save(model, parts, out / "rehearsal")
        fit(
            model,
            table,
            rows,
            pictures,
            recipe=self.recipe,
            hardware=self.hardware,
            seed=self.seed,
            out=out,
            label="target",
            pad=parts.tokenizer.pad_token_id,
            logger=store.follow(self),
        )
        if not distributed.leads():
            return
        self._write(model, out)
        cost = {"rows": len(rows), "tokens": int(table.lengths[rows].sum())}
        (out / "cost.json").write_text(json.dumps(cost))

    def _rows(self, store: Store) -> Int[np.ndarray, " rows"]:
        """The chosen rows that have an answer to learn from."""
        chosen = self.subset.chosen(store)
        return chosen[self.tokens().open(store).answered[chosen]]

    def _dry_save(self, model: nn.Module, parts: LoadedModel, place: Path) -> None:
        """Write what the end of the fit will write, and drop it: what fails there would fail here.

        Of a model in full only what stands around the weights: they are too many for a rehearsal.
        """
        place.mkdir(exist_ok=True)  # where an attempt that died meanwhile has left one
        if self.lora is not None:
            self._write(model, place)
        if isinstance(family_of(parts.model.config), Exportable):
            describe(parts, self.template, "float16", place)
        shutil.rmtree(place)

    def _write(self, model: nn.Module, out: Path) -> None:
        from safetensors.torch import save_file

        if self.lora is not None:
            cast("PeftModel", model).save_pretrained(str(out / "adapter"))
            return
        kept = trained_weights(model, self.recipe.precision)
        write_atomically(out / "trained.safetensors", lambda path: save_file(kept, path))

    def load(self, store: Store) -> LoadedModel:
        """The fine-tuned model, its adapter merged, ready to answer."""
        from peft import PeftModel
        from safetensors.torch import load_file

        parts = load(store.get(self.start))
        if self.lora is not None:
            adapted = PeftModel.from_pretrained(parts.model, store.get(self) / "adapter")
            return dataclasses.replace(parts, model=merge_adapter(adapted).eval())
        parts.model.load_state_dict(
            load_file(store.get(self) / "trained.safetensors"), strict=False
        )
        return parts

    def steps(self, store: Store) -> list[int]:
        """The optimiser steps whose weights are known: none taken, and all."""
        return [0, self.recipe.steps(len(self._rows(store)))]

    def weights_at(self, store: Store, step: int) -> dict[str, Tensor]:
        """All weights behind the tower, the adapter merged: the start point's at step 0.

        Raises ValueError: the weights of that step are not kept.
        """
        if step not in self.steps(store):
            raise ValueError(f"target step {step}: kept are the weights of {self.steps(store)}")
        model = self.load(store).model if step else load(store.get(self.start)).model
        freeze_tower(model)
        return {name: one.data for name, one in model.named_parameters() if one.requires_grad}
