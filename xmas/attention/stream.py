"""The attention of a language model, handed over layer by layer while it computes.

What is handed over is what the model's own attention is given: queries and keys that are normed,
rotated and split into heads, its mask, its scale. So it does not matter how a model makes them. The
stream itself keeps torch's fused attention.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from xmas.attention.shares import added, capped_attention
from xmas.models.cpu_matmul import by_mkl

NAME = "xmas_capture"
REFUSED = ("s_aux", "position_bias", "cache")  # sinks, added biases, paged keys
# layer; queries, keys, mask or null for causal; scale, cap of the logits
Reader = Callable[[int, Tensor, Tensor, Tensor | None, float, float | None], None]
_active: contextvars.ContextVar["Reader | None"] = contextvars.ContextVar("reader", default=None)


class Enough(Exception):  # noqa: N818 - no error: the layers that are wanted have been read
    """Raised by a reader to end the pass; whoever started it catches it."""


@contextlib.contextmanager
def handed_to(read: Reader, language: PreTrainedModel) -> Iterator[None]:
    """Every attention layer of `language` gives `read` what it computes with."""
    before = cast("str", language.config._attn_implementation)  # set when it was built
    language.set_attn_implementation(NAME)
    guard = language.register_forward_pre_hook(_refuse_cropping, with_kwargs=True)
    token = _active.set(read)
    try:
        yield
    finally:
        _active.reset(token)
        guard.remove()
        language.set_attn_implementation(before)


def _refuse_cropping(_: nn.Module, __: tuple, given: dict[str, Any]) -> None:
    """Places among the keys are wrong once a cache drops the keys behind a sliding window."""
    cache = given.get("past_key_values")
    if any(getattr(layer, "is_sliding", False) for layer in getattr(cache, "layers", ())):
        raise ValueError(
            "the cache drops keys behind a sliding window; give a plain DynamicCache()"
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
    """Torch's fused attention, and the metric's rows for whoever reads."""
    read = _active.get()
    layer = cast("int", module.layer_idx)
    if read is None:
        raise RuntimeError(f"{NAME} attention outside `attention_of`")
    _refuse(module, layer, attention_mask, rest, capped_dropout=dropout if softcap else 0.0)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.no_grad():
        read(layer, query, key, attention_mask, scale, softcap)
    fewer = query.shape[2] < key.shape[2]  # torch's own causal mask would take the first keys
    if attention_mask is None and (fewer or softcap is not None):
        position = torch.arange(key.shape[2], device=key.device)
        attention_mask = (position <= position[-query.shape[2] :, None])[None, None]
    if softcap is None:
        # On a CPU torch's own kernel makes products of a head's few queries.
        with by_mkl(), _steady(query):
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
            )
    bias = added(cast("Tensor", attention_mask))
    return capped_attention(query, key, value, bias, scale=scale, softcap=softcap), None


def _steady(query: Tensor) -> contextlib.AbstractContextManager:
    """In half precision on a CPU, products over all keys instead of torch's own kernel: its sums
    end differently for rows of another length, which moves roundings of 4e-3.
    """
    if query.device.type != "cpu" or query.dtype in (torch.float32, torch.float64):
        return contextlib.nullcontext()
    return sdpa_kernel(SDPBackend.MATH)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
