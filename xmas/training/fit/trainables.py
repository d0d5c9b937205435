"""Trainable weights: LoRA and the connector, all but the tower, or the connector alone."""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from xmas.models.precision import cast_parameters
from xmas.models.vlm import connector_parameters, freeze_tower
from xmas.training.fit import nf4
from xmas.training.fit.lora import Lora as Lora
from xmas.training.fit.lora import with_lora as with_lora

if TYPE_CHECKING:
    import peft

HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # type of frozen weights


def trainable(
    model: nn.Module,
    lora: Lora | None,
    precision: str,
    *,
    nf4_on: torch.device | None = None,
) -> nn.Module:
    """`model` as a target trains it: trainable weights in float32, the others frozen.

    Under a mixed precision the frozen weights have 16 bits, as their products have in any case.

    Args:
        lora: None: all weights but the tower's are trainable.
        precision: Lightning's name.
        nf4_on: a device, where the frozen linear layers of the language model get 4 bits.
    """
    cast_parameters(model, frozen_type(precision))
    if nf4_on is not None:
        nf4.quantise(model, nf4_on)
    return all_but_tower(model) if lora is None else with_lora(model, lora)


def all_but_tower(model: nn.Module) -> nn.Module:
    """`model`, all but its tower trainable in float32, embeddings and head included."""
    freeze_tower(model)
    return _in_float32(model)


def projector_alone(model: nn.Module, precision: str) -> nn.Module:
    """`model`, its connector trainable in float32 and all else frozen."""
    cast_parameters(model, frozen_type(precision))
    model.requires_grad_(False)
    for parameter in connector_parameters(model).values():
        parameter.requires_grad_(True)
    return _in_float32(model)


def frozen_type(precision: str) -> torch.dtype:
    """The type of frozen weights under a precision, by Lightning's name of it."""
    return HALF.get(precision, torch.float32)


def casts(precision: str) -> bool:
    """Whether frozen weights get 16 bits under a precision, by Lightning's name of it."""
    return precision in HALF


def trained_weights(model: nn.Module, precision: str) -> dict[str, Tensor]:
    """The weights of a model trained in full to save: 16 bits under a mixed precision, as LLaVA."""
    dtype = frozen_type(precision)
    return {
        name: weight.detach().to("cpu", dtype).contiguous()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


@torch.no_grad()
def merge_adapter(
    adapted: "peft.PeftModel",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> nn.Module:
    """The model with its adapter added to the weights, without peft's wrappers.

    Sums are made in float32, a layer at a time, and rounded once: peft would round the update to
    the base's 16 bits and their sum again.

    Args:
        dtype: of the merged weights after that; None: as the base has them.
        device: where each layer is moved and merged, and left; None: where it is. A GPU then never
            has more than one layer in float32, and a 7B model is merged in seconds, not a minute.
    """
    from peft.tuners.lora import LoraLayer

    for layer in adapted.modules():
        if isinstance(layer, LoraLayer):
            if device is not None:
                cast("nn.Module", layer).to(device)
            base = cast("nn.Linear", layer.get_base_layer())
            stored = base.weight.dtype
            base.weight.data = base.weight.data.float()
            layer.merge()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
            base.weight.data = base.weight.data.to(stored).to(dtype or stored)
    return adapted.unload()  # with the trained projector; the sums are made


def _in_float32(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # in 16 bits most updates would round away
    return model
