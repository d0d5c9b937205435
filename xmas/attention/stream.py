"""Read the inputs of a language model's attention layers while a forward pass runs.

A reader receives what the attention function of the model receives: queries and keys after their
norm, rotary embedding and split into heads, the mask and the scale. So it works for every
architecture that uses transformers' attention interface. The pass itself uses torch's fused
attention, and the reader receives the sums of its softmax as well.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from xmas.attention.logsumexp import KernelLogSumExp
from xmas.attention.shares import added, capped_attention, without_repeats
from xmas.models.cpu_matmul import by_mkl

NAME = "xmas_capture"
REFUSED = ("s_aux", "position_bias", "cache")  # attention sinks, position biases, paged keys


@dataclasses.dataclass(frozen=True)
class AttentionInputs:
    """What an attention layer computes its logits from: cap(scale * q k^T), where `mask` allows.

    Attributes:
        mask: None: causal.
        softcap: c of cap(x) = c * tanh(x / c); None: cap(x) = x.
        logsumexp: of each query's logits, where the kernel of the pass computed it.
    """

    layer: int
    query: Float[Tensor, "rows heads length width"]
    key: Float[Tensor, "rows groups keys width"]
    mask: Tensor | None
    scale: float
    softcap: float | None
    logsumexp: Float[Tensor, "rows heads length"] | None = None


Reader = Callable[[AttentionInputs], None]
_active: contextvars.ContextVar["tuple[Reader, int | None] | None"] = contextvars.ContextVar(
    "reader", default=None
)


class StopPass(Exception):  # noqa: N818 - no error: the layers that were asked for have been read
    """Ends the forward pass; caught where the reader was registered."""


@contextlib.contextmanager
def handed_to(
    read: Reader, language: PreTrainedModel, *, last: int | None = None
) -> Iterator[None]:
    """Within the context, every attention layer of `language` calls `read` with its inputs.

    Args:
        last: the layer whose inputs end the pass, by `StopPass`, before its attention is computed;
            None: the pass does not end early.
    """
    implementation = cast("str", language.config._attn_implementation)  # set when it was built
    language.set_attn_implementation(NAME)
    guard = language.register_forward_pre_hook(_refuse_cropping, with_kwargs=True)
    token = _active.set((read, last))
    try:
        yield
    finally:
        _active.reset(token)
        guard.remove()
        language.set_attn_implementation(implementation)


def _refuse_cropping(_: nn.Module, __: tuple, arguments: dict[str, Any]) -> None:
    """Positions among the keys are wrong once a cache drops keys that left a sliding window."""
    cache = arguments.get("past_key_values")
    if any(getattr(layer, "is_sliding", False) for layer in getattr(cache, "layers", ())):
        raise ValueError(
            "the cache drops keys that left a sliding window; pass a plain DynamicCache()"
        )


def _refuse(
    module: nn.Module,
    layer: int,
    mask: Tensor | None,
    rest: dict[str, Any],
    *,
    capped_dropout: float,
) -> None:
    causal = rest.get("is_causal")
    reasons = [name for name in REFUSED if rest.get(name) is not None]
    if mask is None and not (getattr(module, "is_causal", True) if causal is None else causal):
        reasons.append("neither a mask nor causality")
    if capped_dropout:
        reasons.append("softcap and dropout at once")
    if reasons:
        raise NotImplementedError(f"layer {layer}: attention with {reasons[0]} cannot be read")


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """Torch's fused attention, followed by a call of the reader."""
    layer = cast("int", module.layer_idx)
    if (active := _active.get()) is None:
        raise RuntimeError(f"{NAME} attention outside `attention_of`")
    read, last = active
    _refuse(module, layer, attention_mask, rest, capped_dropout=dropout if softcap else 0.0)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    inputs = AttentionInputs(layer, query, key, attention_mask, scale, softcap)
    if layer == last:
        with torch.no_grad():
            read(inputs)
        raise StopPass
    fewer = query.shape[2] < key.shape[2]  # torch's own causal mask would take the first keys
    if attention_mask is None and (fewer or softcap is not None):
        position = torch.arange(key.shape[2], device=key.device)
        attention_mask = (position <= position[-query.shape[2] :, None])[None, None]
    if softcap is None:
        # torch's CPU kernel multiplies the few queries of a head: MKL is faster than oneDNN here
        with by_mkl(), _steady(query), KernelLogSumExp() as kernel:
            mask = attention_mask if attention_mask is None else without_repeats(attention_mask)
            output, _ = sdpa_attention_forward(
                module, query, key, value, mask, dropout=dropout, scaling=scaling, **rest
            )
        inputs = dataclasses.replace(inputs, logsumexp=kernel.of(query))
    else:
        bias = added(cast("Tensor", attention_mask))
        output = capped_attention(query, key, value, bias, scale=scale, softcap=softcap)
    with torch.no_grad():
        read(inputs)
    return output, None


def _steady(query: Tensor) -> contextlib.AbstractContextManager:
    """In half precision on a CPU, plain products over all keys instead of torch's kernel.

    The order of the kernel's sums depends on the length of a row, which changes results by 4e-3.
    """
    if query.device.type != "cpu" or query.dtype in (torch.float32, torch.float64):
        return contextlib.nullcontext()
    return sdpa_kernel(SDPBackend.MATH)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
