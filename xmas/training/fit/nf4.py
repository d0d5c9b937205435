"""Frozen weights of the language model in 4 bits: NF4 with quantised scales, by bitsandbytes.

A linear layer's weights are in blocks of 64 with a scale each, and the scales in blocks of 256:
4.13 bits a weight. Every product first makes the layer's weights in 16 bits again, or in float32
where the fit has that. Embedding, head, norms, connector and vision tower keep their types.

Source: QLoRA (arXiv 2305.14314), section 3.
"""

import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from xmas.models.vlm import language_model
from xmas.training.fit.recipe import Hardware, Recipe

PRECISIONS = ("bf16-mixed", "16-mixed", "32-true")


def check(hardware: Hardware, recipe: Recipe, *, lora: bool) -> None:
    """Raise ValueError: 4-bit weights are asked for and do not go with the fit; says what does."""
    if hardware.quantise is None:
        return
    asked = f"hardware.quantise={hardware.quantise}"
    if not lora:
        raise ValueError(
            f"{asked}: weights of 4 bits cannot be trained; set target/recipe=lora, or "
            "hardware.quantise=null"
        )
    if recipe.precision not in PRECISIONS:
        raise ValueError(
            f"{asked} does not go with recipe.precision={recipe.precision}; set one of "
            f"{', '.join(PRECISIONS)}"
        )
    if hardware.strategy == "fsdp2":
        raise ValueError(
            f"{asked} does not go with hardware.strategy=fsdp2: 4-bit weights are not sharded; set "
            "hardware=ddp"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"{asked}: the package bitsandbytes is not installed; pip install 'xmas[nf4]', or set "
            "hardware.quantise=null"
        )


def quantise(model: nn.Module, device: torch.device | str) -> nn.Module:
    """`model`, its language model's linear layers replaced by frozen ones of 4 bits on `device`.

    They compute in the type that the weights have now. A layer at a time is moved, so the device
    never has the whole model in 16 bits.
    """
    from bitsandbytes.nn import (  # pyright: ignore[reportMissingImports]  # an extra
        Linear4bit,
        Params4bit,
    )

    for parent, name, layer in _linear_layers(model):
        weight = layer.weight.detach()
        replacement: Any = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=False,
            compute_dtype=weight.dtype,
            device="meta",
        )
        replacement.weight = Params4bit(
            weight, requires_grad=False, quant_type="nf4", module=replacement
        ).to(device)
        if layer.bias is not None:
            replacement.bias = nn.Parameter(layer.bias.detach().to(device), requires_grad=False)
        replacement.support_avx512bf16_for_cpu = False  # it would lay weights out anew, for answers
        setattr(parent, name, replacement)
    model.is_loaded_in_4bit = True  # pyright: ignore[reportArgumentType]  # what peft asks for
    return model


@torch.no_grad()
def round_weights(
    model: nn.Module, dtype: torch.dtype, device: torch.device | str | None = None
) -> nn.Module:
    """`model`, the weights that `quantise` would replace rounded to what its layers multiply with.

    Args:
        dtype: in which a fit multiplies.
        device: where they are rounded, a layer at a time; None: where they are.
    """
    for _, _, layer in _linear_layers(model):
        weight = layer.weight
        rounded = dequantised(weight.to(device or weight.device, dtype))
        weight.data = rounded.to(weight.device, weight.dtype)
    return model


def dequantised(weight: Tensor) -> Tensor:
    """A weight after it was stored in 4 bits, in its own type."""
    from bitsandbytes.functional import (  # pyright: ignore[reportMissingImports]  # an extra
        dequantize_4bit,
        quantize_4bit,
    )

    return dequantize_4bit(*quantize_4bit(weight, quant_type="nf4", compress_statistics=True))


def _linear_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Every linear layer of the language model with its parent and its name there."""
    language = language_model(model)
    for path, layer in list(language.named_modules()):
        if isinstance(layer, nn.Linear):
            parent, _, name = path.rpartition(".")
            yield language.get_submodule(parent), name, layer
