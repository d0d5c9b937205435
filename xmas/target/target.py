"""The target: a vision-language model fine-tuned on a subset, with LoRA or in full."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from jaxtyping import Int
from torch import Tensor, nn

from xmas.data.pool import Pool
from xmas.models.chat.own_template import OwnTemplate
from xmas.models.chat.template import Template
from xmas.models.device import device_for
from xmas.models.families import Exportable, OwnForward, family_of
from xmas.models.precision import cast_parameters
from xmas.models.start_point import StartPoint
from xmas.models.vlm import LoadedModel, freeze_tower, load
from xmas.selection.subset import Subset
from xmas.store import (
    Stage,
    Store,
    distributed,
    key,
    nearest_stages,
    volatile,
    write_atomically,
)
from xmas.target.hf_folder import describe
from xmas.training.fit import nf4
from xmas.training.fit.recipe import Hardware, Recipe
from xmas.training.fit.trainables import (
    Lora,
    casts,
    frozen_type,
    merge_adapter,
    trainable,
    trained_weights,
)
from xmas.training.model_on_pool import ModelOnPool, fit_on_pool

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


@dataclasses.dataclass(frozen=True)
class Target(ModelOnPool, Stage):
    """`adapter/`, a PEFT folder with LoRA and projector, or `trained.safetensors`, all that trained
    in full; `loss.csv`; `cost.json`, rows and tokens of an epoch. Seconds are in `meta.json`.

    A run on a subset changes the data only: as many epochs over fewer rows, so fewer steps. An
    `untrained` one takes none: its weights are those of the start point.
    """

    kind: ClassVar[str] = "target"
    version: ClassVar[int] = 3  # under mixed precisions frozen weights have 16 bits
    together: ClassVar[bool] = True

    subset: Subset
    start: StartPoint
    recipe: Recipe
    lora: Lora | None = dataclasses.field(default_factory=Lora)  # null: all but the tower
    template: Template | OwnTemplate = dataclasses.field(default_factory=Template)
    seed: int = 0
    cache_vision: bool = False  # tower features computed once and kept on disk: for small images
    max_length: int = 2048  # tokens of a row, the image counted
    from_tuned: bool = False  # start from a model that is tuned on instructions already
    untrained: bool = volatile(False)
    weights: str = volatile("published")  # what the configuration calls those of `start`
    model: str | None = volatile(None)  # or those of a model of any family
    hardware: Hardware = volatile(default_factory=Hardware)

    @property
    def pool(self) -> Pool:
        """All rows are tokenised, chosen or not."""
        return self.subset.ranking.pool

    def corrections(self) -> dict[str, Any]:
        """Where frozen weights have 16 bits, rotary frequencies stay float32; frozen weights have 4
        bits; no step was taken.
        """
        buffers = {"buffers": "float32"} if casts(self.recipe.precision) else {}
        quantised = {"quantise": self.hardware.quantise} if self._quantised else {}
        untrained = {"untrained": True} if self.untrained else {}
        return super().corrections() | buffers | quantised | untrained

    @property
    def _quantised(self) -> bool:
        """Whether frozen weights have 4 bits."""
        return self.hardware.quantise is not None and self.lora is not None

    def check(self, store: Store) -> None:
        """Raises ValueError: as `ModelOnPool.check`; or 4-bit weights do not go with the fit."""
        super().check(store)
        nf4.check(self.hardware, self.recipe, lora=self.lora is not None)

    def inputs(self) -> list[Stage]:
        if self.untrained:
            return [*nearest_stages(self.start)]
        return [*super().inputs(), *nearest_stages(self.pool)]

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: the start point was tuned on instructions; or as `fit` does."""
        nf4.check(self.hardware, self.recipe, lora=self.lora is not None)
        if not self.from_tuned:
            self.start.refuse_tuned(store)
        if self.untrained:
            self._compute_untrained(store, out)
            return
        rows = self._rows(store)
        _, model = fit_on_pool(
            self,
            store,
            out,
            lambda loaded: self._trainable(loaded, out),
            label="target",
            rows=rows,
            logger=store.fit_logger(self),
        )
        if not distributed.leads():
            return
        self._write(model, out)
        table = self.tokens().open(store)
        cost = {"rows": len(rows), "tokens": int(table.lengths[rows].sum())}
        (out / "cost.json").write_text(json.dumps(cost))

    def _compute_untrained(self, store: Store, out: Path) -> None:
        """Write the weights as they are before the first step."""
        loaded = load(store.get(self.start))
        if distributed.leads():
            self._write(self._trainable(loaded, out), out)
            (out / "cost.json").write_text(json.dumps({"rows": 0, "tokens": 0}))

    def _trainable(self, loaded: LoadedModel, out: Path) -> nn.Module:
        """The model to fit, after a rehearsal of what is written at the end."""
        import torch

        with torch.random.fork_rng(devices=[]):  # initialised on the CPU
            torch.manual_seed(self.seed)
            device = device_for(self.hardware.accelerator) if self._quantised else None
            model = trainable(loaded.model, self.lora, self.recipe.precision, nf4_on=device)
        if distributed.leads():
            self._rehearse_saving(model, loaded, out / "rehearsal")
        return model

    def _rows(self, store: Store) -> Int[np.ndarray, " rows"]:
        """The chosen rows that have an answer to learn from."""
        subset_rows = self.subset.chosen(store)
        return subset_rows[self.tokens().open(store).answered[subset_rows]]

    def _rehearse_saving(self, model: nn.Module, loaded: LoadedModel, folder: Path) -> None:
        """Write what the end of the fit will write, and drop it: what would fail there fails here.

        Of a model that trains in full all but the weights, which are too many for a rehearsal.
        """
        folder.mkdir(exist_ok=True)  # where an attempt that died meanwhile has left one
        if self.lora is not None:
            self._write(model, folder)
        if isinstance(family_of(loaded.model.config), Exportable | OwnForward):
            describe(loaded, self.template, "float16", folder)
        shutil.rmtree(folder)

    def _write(self, model: nn.Module, out: Path) -> None:
        from safetensors.torch import save_file

        if self.lora is not None:
            adapted = cast("PeftModel", model)
            _rename_base(adapted, f"{self.start.kind}/{key(self.start)}")
            # Embeddings get no rows; to find that out, PEFT would look for the base's folder.
            # Written anew, since PEFT adds to the README.md that an interrupted attempt has left.
            write_atomically(
                out / "adapter",
                lambda folder: adapted.save_pretrained(str(folder), save_embedding_layers=False),
            )
            return
        weights = trained_weights(model, self.recipe.precision)
        write_atomically(out / "trained.safetensors", lambda path: save_file(weights, path))

    def _start(self, store: Store, device: "torch.device | str | None" = None) -> LoadedModel:
        """The start point, its frozen weights with the values that they had in the fit.

        Args:
            device: where 4-bit weights are made; None: the CPU.
        """
        loaded = load(store.get(self.start))
        if self._quantised:
            nf4.round_weights(loaded.model, frozen_type(self.recipe.precision), device)
        return loaded

    def load(
        self,
        store: Store,
        dtype: "torch.dtype | None" = None,
        device: "torch.device | str | None" = None,
    ) -> LoadedModel:
        """The fine-tuned model, its adapter merged, ready to answer.

        Where frozen weights had 4 bits in the fit, the adapter is added in float32 to the values
        that these stand for, which are in the type of the fit's products, and rounded once.

        Args:
            dtype: of all parameters; None: as they are stored.
            device: of the model, and where its adapter is merged; None: the CPU.
        """
        from peft import PeftModel
        from safetensors.torch import load_file

        loaded = self._start(store, device)
        if self.lora is not None:
            adapted = PeftModel.from_pretrained(
                loaded.model, store.get(self) / "adapter", torch_device="cpu"
            )
            merged = merge_adapter(adapted, dtype, device)
            loaded = dataclasses.replace(loaded, model=merged.eval())
        else:
            weights = load_file(store.get(self) / "trained.safetensors")
            loaded.model.load_state_dict(weights, strict=False)
        if dtype is not None:
            cast_parameters(loaded.model, dtype)
        if device is not None:
            loaded.model.to(device)
        return loaded

    def adapted(self, store: Store) -> LoadedModel:
        """The fine-tuned model, its adapter not merged and trainable; on the CPU.

        Raises ValueError: it trained in full.
        """
        from peft import PeftModel

        if self.lora is None:
            raise ValueError("a target that trained in full has no adapter; give it target.lora")
        loaded = self._start(store)
        model = PeftModel.from_pretrained(
            loaded.model, store.get(self) / "adapter", torch_device="cpu", is_trainable=True
        )
        return dataclasses.replace(loaded, model=model)

    def steps(self, store: Store) -> list[int]:
        """The optimiser steps whose weights are known: none taken, and all."""
        return [0, self.recipe.steps(len(self._rows(store)))]

    def weights_at(self, store: Store, step: int) -> dict[str, Tensor]:
        """All weights but the tower's, the adapter merged: the start point's at step 0.

        Raises ValueError: the weights of that step are not kept.
        """
        if step not in self.steps(store):
            raise ValueError(f"target step {step}: kept are the weights of {self.steps(store)}")
        model = (self.load(store) if step else self._start(store)).model
        parameters = freeze_tower(model).named_parameters()
        return {name: weight.data for name, weight in parameters if weight.requires_grad}


def _rename_base(adapted: "PeftModel", name: str) -> None:
    """What the adapter's files call the model below it: PEFT's own is this host's folder of it."""
    base: Any = adapted.get_base_model()
    base.name_or_path = base.config.name_or_path = name
    for config in adapted.peft_config.values():
        config.base_model_name_or_path = name
