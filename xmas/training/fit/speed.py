"""Attention, recomputation and compilation of the language model during a fit."""

import contextlib
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

from peft.helpers import disable_input_dtype_casting
from torch import nn
from torch.utils.checkpoint import checkpoint

from xmas.models import varlen_attention
from xmas.models.vlm import language_model
from xmas.training.fit import liger
from xmas.training.fit.recipe import Hardware
from xmas.training.fit.recomputation import recompute


@contextlib.contextmanager
def configured(model: nn.Module, hardware: Hardware, precision: str = "32-true") -> Iterator[None]:
    """Set attention, recomputation and compilation as `hardware` says; undone afterwards.

    Under autocast peft would cast the input of every LoRA to float32, and autocast back again:
    the same numbers, for a quarter of the time of a block's matrices.

    Recomputation is for blocks of the language model alone: set on the whole model, transformers
    makes every sub-model's input require a gradient, and the backward pass runs through the frozen
    tower.

    Compiled blocks are one graph, which all blocks of a kind share: packed attention is an operator
    in it.

    Raises ValueError: rows cannot be packed, or Liger's kernels not used.
    """
    language: Any = language_model(model)
    before = language.config._attn_implementation
    if hardware.attention is not None:
        language.set_attn_implementation(hardware.attention)
    if hardware.liger:
        if hardware.compile is not None:
            raise ValueError(
                "hardware.liger=true and hardware.compile fuse the same steps of a block; set one"
            )
        liger.check(language, hardware.accelerator)
    if hardware.packing:
        varlen_attention.prepare(language, compiled=hardware.compile is not None)
    blocks = list(language.layers)
    for block in blocks:
        block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    recompute(blocks, math.ceil((hardware.checkpointing or 0.0) * len(blocks)))
    if hardware.compile is not None:
        for block in blocks:
            block.compile(backend=hardware.compile, dynamic=True)
    try:
        with (
            disable_input_dtype_casting(model, active="mixed" in precision),
            liger.fused(language) if hardware.liger else contextlib.nullcontext(),
        ):
            yield
    finally:
        for block in blocks:
            block.gradient_checkpointing = False
            block._compiled_call_impl = None
        if language.config._attn_implementation != before:
            language.set_attn_implementation(before)
