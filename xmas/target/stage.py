"""The target: a LLaVA fine-tuned on a subset with LoRA, as a PEFT adapter folder."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from torch import Tensor, nn

from xmas import ranks
from xmas.chat.template import Template
from xmas.chat.tokens import Tokenised
from xmas.fit.recipe import Hardware, Recipe
from xmas.fit.trainer import fit
from xmas.llava import Parts, freeze_tower, load
from xmas.start.point import StartPoint
from xmas.store import Stage, Store, volatile
from xmas.subset import Subset
from xmas.vision import Pictures, pictures_of

if TYPE_CHECKING:
    from peft import PeftModel

LORA_LAYERS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)$"


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank updates of every linear layer of the language model, beside the full projector.

    Source of the defaults: LLaVA `scripts/v1_5/finetune_lora.sh`.
    """

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05


@dataclasses.dataclass(frozen=True)
class Target(Stage):
    """`adapter/`, a PEFT folder with LoRA and projector; `loss.csv`; `cost.json`, rows and tokens.

    A run on a subset changes the data only: as many epochs over fewer rows, so fewer steps.
    """

    kind: ClassVar[str] = "target"
    version: ClassVar[int] = 2  # LoRA's dropout is on
    together: ClassVar[bool] = True

    subset: Subset
    start: StartPoint
    recipe: Recipe
    lora: Lora = dataclasses.field(default_factory=Lora)
    template: Template = dataclasses.field(default_factory=Template)
    seed: int = 0
    cache_vision: bool = False  # tower features once for all, on disk: for small images
    max_length: int = 2048  # tokens of a row, the image counted
    hardware: Hardware = volatile(default_factory=Hardware)

    def tokens(self) -> Tokenised:
        """All rows of the pool, chosen or not."""
        pool = self.subset.ranking.pool
        return Tokenised(
            pool, self.start.tokenizer, self.template, self.start.image, self.max_length
        )

    def pictures(self, store: Store, parts: Parts) -> Pictures:
        pool = self.subset.ranking.pool
        return pictures_of(pool, self.start.tower, parts.processor, store, cached=self.cache_vision)

    def compute(self, store: Store, out: Path) -> None:
        import torch

        table = self.tokens().open(store)
        rows = self.subset.chosen(store)
        parts = load(store.get(self.start))
        pictures = self.pictures(store, parts)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = with_lora(parts.model, self.lora)
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
        )
        if not ranks.leads():
            return
        cast("PeftModel", model).save_pretrained(str(out / "adapter"))
        cost = {"rows": len(rows), "tokens": int(table.lengths[rows].sum())}
        (out / "cost.json").write_text(json.dumps(cost))

    def load(self, store: Store) -> Parts:
        """The fine-tuned model, its adapter merged, ready to answer."""
        from peft import PeftModel

        parts = load(store.get(self.start))
        adapted = PeftModel.from_pretrained(parts.model, store.get(self) / "adapter")
        merged = adapted.merge_and_unload()
        return dataclasses.replace(parts, model=merged.eval())

    def steps(self, store: Store) -> list[int]:
        """The optimiser steps whose weights are known: none taken, and all."""
        return [0, self.recipe.steps(len(self.subset.chosen(store)))]

    def weights(self, store: Store, step: int) -> dict[str, Tensor]:
        """All weights behind the tower, the adapter merged: the start point's at step 0.

        Raises ValueError: the weights of that step are not kept.
        """
        if step not in self.steps(store):
            raise ValueError(f"target step {step}: kept are the weights of {self.steps(store)}")
        model = self.load(store).model if step else load(store.get(self.start)).model
        freeze_tower(model)
        return {name: one.data for name, one in model.named_parameters() if one.requires_grad}


def with_lora(model: nn.Module, lora: Lora) -> nn.Module:
    """`model` with trainable LoRA and a trainable projector, both float32; all else frozen."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        model,
        LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            bias="none",
            target_modules=LORA_LAYERS,
            modules_to_save=["multi_modal_projector"],
            task_type="CAUSAL_LM",
        ),
    )
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # in bf16 most updates would round away
    return adapted
