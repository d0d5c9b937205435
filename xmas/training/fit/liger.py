"""Liger's fused kernels in the blocks of a language model: RMSNorm, rotary embedding, SwiGLU.

They do what transformers does, in one kernel and with less memory each, where PyTorch launches two
to eight. Source: the package `liger-kernel` (arXiv 2410.10989), by its functions.
"""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

# RMSNorm before attention and before the MLP, gate and up projections, rotation of whole heads.
SUPPORTED = ("llama", "mistral", "qwen2")


def check(language: PreTrainedModel, accelerator: str) -> None:
    """Raise ValueError: the kernels are not installed, or not for this model or device."""
    kind = language.config.model_type
    if kind not in SUPPORTED:
        raise ValueError(
            f"hardware.liger=true: a {kind} is none of {', '.join(SUPPORTED)}; set "
            "hardware.liger=false; hardware.compile=inductor fuses the blocks of any model"
        )
    if accelerator == "cpu":
        raise ValueError("hardware.liger=true: its kernels are for GPUs; set hardware.liger=false")
    if importlib.util.find_spec("liger_kernel") is None:
        raise ValueError(
            "hardware.liger=true: the package liger-kernel is not installed; pip install "
            "'xmas[liger]', or set hardware.liger=false"
        )


@contextlib.contextmanager
def fused(language: PreTrainedModel) -> Iterator[None]:
    """Run the blocks of `language` with Liger's kernels within the context.

    The rotary embedding is a function of the model's module, so other models of its kind have it
    too.
    """
    kernels: Any = importlib.import_module("liger_kernel.transformers.functional")
    modeling: Any = sys.modules[type(language).__module__]
    rotary = modeling.apply_rotary_pos_emb
    replaced: list[nn.Module] = []

    def replace(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
        module.forward = forward
        replaced.append(module)

    for norm in _norms(language):
        replace(norm, _normalised(norm, kernels.liger_rms_norm))
    for block in _blocks(language):
        replace(block.mlp, _gated(block.mlp, kernels.liger_swiglu))
    modeling.apply_rotary_pos_emb = kernels.liger_rope
    try:
        yield
    finally:
        modeling.apply_rotary_pos_emb = rotary
        for module in replaced:
            del module.forward  # the class's is left


def _blocks(language: Any) -> list[Any]:
    return list(language.layers)


def _norms(language: Any) -> list[Any]:
    of_blocks = ((one.input_layernorm, one.post_attention_layernorm) for one in language.layers)
    return [*(norm for pair in of_blocks for norm in pair), language.norm]


def _normalised(norm: Any, kernel: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda hidden: kernel(hidden, norm.weight, norm.variance_epsilon)


def _gated(mlp: Any, kernel: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda hidden: mlp.down_proj(kernel(mlp.gate_proj(hidden), mlp.up_proj(hidden)))
