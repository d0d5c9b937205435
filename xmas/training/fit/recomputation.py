"""Recomputation: blocks of the language model keep their input alone, and run again in the
backward pass.

The numbers are the same, dropout included. So each microbatch recomputes no more blocks than its
memory needs: the longest of them decide what fits, the others lose no time.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.distributed.tensor import DTensor

from xmas.models.adapters import Adapters, adapters_of
from xmas.models.chat.batches import Batch
from xmas.models.chat.tokens import TokenTable
from xmas.models.shape import Decoder
from xmas.models.vlm import language_model
from xmas.training.fit.batch_plan import BatchPlan
from xmas.training.fit.memory import ADAM, NF4, FitMemory
from xmas.training.fit.recipe import Hardware, Recipe


def recompute(blocks: Sequence[nn.Module], count: int) -> None:
    """Have the first `count` blocks recomputed, and no others.

    transformers recomputes a block in training mode only. Blocks have no dropout of their own:
    what is frozen inside stays in evaluation mode.
    """
    for place, block in enumerate(blocks):
        cast("Any", block).gradient_checkpointing = place < count
        block.training = block.training or place < count


class Recomputation(Callback):
    """Recomputes in each microbatch as many blocks as `hardware` says, or as memory needs.

    The count is that of the largest microbatch of all ranks at a time: with sharded weights they
    have to do the same.
    """

    def __init__(
        self, table: TokenTable, batch_plan: BatchPlan, recipe: Recipe, hardware: Hardware
    ) -> None:
        self.table = table
        self.batches = batch_plan.batches
        self.recipe = recipe
        self.hardware = hardware

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = cast("nn.Module", pl_module.model)
        self.kept = fit_memory(model, self.recipe, self.hardware)
        self.blocks = list(cast("Any", language_model(model)).layers)
        self.memory = trainer.strategy.broadcast(memory_of(trainer.strategy.root_device))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        recompute(self.blocks, self.count(batch_idx, trainer.world_size))

    def count(self, batch_idx: int, world: int) -> int:
        """Blocks to recompute in the microbatches of all ranks at an index."""
        batches = self.batches[batch_idx * world : (batch_idx + 1) * world]
        return max(self._count(rows.tolist()) for rows in batches)

    def _count(self, rows: list[int]) -> int:
        lengths = self.table.lengths[rows]
        tokens = lengths.sum() if self.hardware.packing else len(rows) * lengths.max()
        answers = sum(self.table.answers(row) for row in rows)
        share = self.hardware.checkpointing
        return self.kept.recomputed(float(tokens), answers, share=share, memory=self.memory)


def memory_of(device: torch.device) -> float | None:
    """Bytes of a device's memory; None: not limited by it, as on the host."""
    if device.type != "cuda":
        return None
    return float(torch.cuda.get_device_properties(device).total_memory)


def fit_memory(model: nn.Module, recipe: Recipe, hardware: Hardware) -> FitMemory:
    """What a fit of `model` keeps, of its weights as they are on this device, sharded or full."""
    language: Any = language_model(model)
    mixed = "mixed" in recipe.precision
    size, gathered, quantised = 0.0, 0.0, False
    in_blocks = {*language.layers.parameters()}
    for weight in model.parameters():
        stored = weight.element_size()
        gradient = stored if weight.requires_grad else 0
        copy = 2 if mixed and weight.dtype == torch.float32 else 0
        local = weight.to_local() if isinstance(weight, DTensor) else weight
        if weight.dtype == torch.uint8:  # two of 4 bits in a byte, their scales apart
            size += 2 * NF4 * weight.numel()
            quantised = True
            continue
        size += local.numel() * (stored + gradient + (ADAM if weight.requires_grad else 0))
        if not isinstance(weight, DTensor):
            size += weight.numel() * copy
        elif weight in in_blocks:
            gathered += weight.numel() * ((2 if mixed else stored) + gradient)
        else:
            size += weight.numel() * (stored + copy + gradient)
    decoder = Decoder.of(language.config)
    bits = 32 if "32" in recipe.precision or "64" in recipe.precision else 16
    if quantised:
        size += bits / 8 * max(inputs * outputs for inputs, outputs in decoder.matrices)
    return FitMemory(
        decoder,
        size + 2 * gathered / len(language.layers),
        bits,
        _lora(model, decoder),
        hardware.logit_rows,
    )


def _lora(model: nn.Module, decoder: Decoder) -> int | Adapters | None:
    """LoRA in numbers, its rank alone where it is plain and on every layer; 0: the language model
    is frozen; None: it is trained in full.
    """
    from peft.tuners.lora import LoraLayer

    if not any(weight.requires_grad for weight in language_model(model).parameters()):
        return 0
    configs = getattr(model, "peft_config", None)
    if not configs:
        return None
    rank = next(iter(configs.values())).r
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    lora = Adapters(
        rank,
        tuple((layer.in_features, layer.out_features) for layer in layers),
        dora=any(layer.lora_magnitude_vector for layer in layers),
        dropout=any(dropout.p > 0 for layer in layers for dropout in _dropouts(layer)),
    )
    plain = adapters_of(decoder, rank)
    assert plain is not None
    same = sorted(lora.matrices) == sorted(plain.matrices) and not lora.dora
    return rank if same else lora


def _dropouts(layer: Any) -> list[nn.Dropout]:
    return [each for each in layer.lora_dropout.values() if isinstance(each, nn.Dropout)]
