"""Variable-length attention: rows packed into one sequence attend to themselves only.

Attention is causal and without a mask, so that torch takes its flash kernel where there is one, and
nothing is computed across rows. Short rows of nearly one length are one call, padded at their ends,
which no token sees; others are a call each, since their padding costs more than calls do. The
lengths of the rows are passed in place of the mask. Under `flash_attention_2` transformers does the
same with one kernel for all rows.

Compiled blocks contain all of it as one operator, `torch.ops.xmas.packed_attention`: the number of
rows differs from batch to batch, so its steps cannot be traced, and a graph break inside a
recomputed block would leave the whole block to Python.
"""

from typing import Any, cast, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from xmas.models import cpu_attention
from xmas.models.chat.packing import positions

NAME = "xmas_packed"
# Their layers drop every argument of attention but the mask (transformers 5.23).
_MASK_ONLY = {"stablelm"}


@no_type_check  # is traced into compiled blocks: what wraps it is too, and guards its arguments
def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    short: int = 128,
    padded: float = 1.5,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of packed rows, whose lengths are `attention_mask`; of others as torch's sdpa.

    Args:
        short: tokens of the longest row, up to which all rows may be one call.
        padded: and up to this ratio of tokens with padding to tokens without.
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
    if torch.compiler.is_compiling():
        device = query.device.type
        # autocast does it for torch's own operators, but does not know this one
        half = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if half else query.dtype
        sequences = (query.to(dtype), key.to(dtype), value.to(dtype))
        scale = rest.get("scaling")
        return torch.ops.xmas.packed_attention(*sequences, attention_mask, scale), None
    lengths = attention_mask.flatten().tolist()
    rest["is_causal"] = True
    longest = max(lengths)
    if longest <= short and longest * len(lengths) <= padded * sum(lengths):
        return _in_one_call(module, query, key, value, lengths, **rest), None
    return _in_a_call_each(module, query, key, value, lengths, **rest), None


def _in_a_call_each(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, lengths: list[int], **rest: Any
) -> Tensor:
    rows = zip(*(whole.split(lengths, dim=2) for whole in (query, key, value)), strict=True)
    return torch.cat([_causal(module, *row, **rest) for row in rows], dim=1)


def _in_one_call(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, lengths: list[int], **rest: Any
) -> Tensor:
    """A batch of all rows, each padded at its end, and back to one sequence."""
    longest = max(lengths)
    places = [row * longest + torch.arange(length) for row, length in enumerate(lengths)]
    place = torch.cat(places).to(query.device, non_blocking=True)

    def batched(sequence: Tensor) -> Tensor:
        tokens = sequence[0].transpose(0, 1)
        rows = tokens.new_zeros(len(lengths) * longest, *tokens.shape[1:])
        rows = rows.index_copy(0, place, tokens).unflatten(0, (len(lengths), longest))
        return rows.transpose(1, 2)

    batch = batched(query), batched(key), batched(value)
    outputs = _causal(module, *batch, **rest)
    return outputs.flatten(0, 1).index_select(0, place)[None]


def _causal(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **rest: Any) -> Tensor:
    """Causal attention of rows of one length: (rows, length, heads, width)."""
    if cpu_attention.takes(query, value) and not rest.get("dropout"):
        fewer = query.shape[1] // key.shape[1]
        key, value = repeat_kv(key, fewer), repeat_kv(value, fewer)
        return cpu_attention.causal(query, key, value, rest.get("scaling")).transpose(1, 2)
    return sdpa_attention_forward(module, query, key, value, None, **rest)[0]


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def arguments(language: PreTrainedModel, lengths: Int[Tensor, " rows"]) -> dict[str, Any]:
    """Arguments of `language` for one sequence of packed rows of these lengths.

    Raises ValueError: its attention does not keep rows apart.
    """
    if _kind(language) == NAME:
        # Every model passes a mask of four axes on as it is; StableLM drops other arguments.
        masks: dict[str, Any] = {"attention_mask": lengths.cpu()[None, None, None]}
    elif "flash" in _kind(language):
        ends = nn.functional.pad(torch.cumsum(lengths, 0, dtype=torch.int32), (1, 0))
        longest = int(lengths.max())
        ends = ends.to(language.device, non_blocking=True)
        masks = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "attention_mask": None}
        masks |= {"max_length_q": longest, "max_length_k": longest}
    else:
        raise ValueError(
            f"attention {_kind(language)!r} would see across the rows of a packed batch; set "
            "hardware.packing=false, or hardware.attention to sdpa or flash_attention_2"
        )
    return masks | {"position_ids": positions(lengths)[None].to(language.device, non_blocking=True)}


def prepare(
    language: PreTrainedModel, *, compiled: bool = False, setting: str = "hardware.packing"
) -> None:
    """Have `language` keep packed rows apart.

    Args:
        setting: what asks for it, for messages.

    Raises ValueError: it cannot; says why.
    """
    if compiled and getattr(language.config, "attention_dropout", 0.0):
        raise ValueError(
            f"packed attention with attention_dropout {language.config.attention_dropout}, as this "
            f"{language.config.model_type} has, is not compiled; set hardware.compile=null or "
            f"{setting}=false"
        )
    windows = {"sliding_attention", "chunked_attention", "linear_attention"}
    unsupported = windows & set(getattr(language.config, "layer_types", None) or ())
    if unsupported:
        raise ValueError(
            f"a {language.config.model_type} with {unsupported.pop()} cannot be packed; set "
            f"{setting}=false"
        )
    if language.config.model_type in _MASK_ONLY and "flash" in _kind(language):
        raise ValueError(
            f"the layers of a {language.config.model_type} do not pass to {_kind(language)} "
            f"where packed rows end; set hardware.attention=sdpa or {setting}=false"
        )
    if _kind(language) == "sdpa":
        language.set_attn_implementation(NAME)
    if _kind(language) != NAME and "flash" not in _kind(language):
        raise ValueError(
            f"attention {_kind(language)!r} does not keep packed rows apart; set "
            f"{setting}=false, or hardware.attention to sdpa or flash_attention_2"
        )


Heads = Float[Tensor, "1 heads tokens width"]
Groups = Float[Tensor, "1 groups tokens width"]  # keys or values, fewer heads than queries or equal

_operators = torch.library.Library("xmas", "FRAGMENT")
_operators.define(
    "packed_attention(Tensor query, Tensor key, Tensor value, Tensor lengths, float? scale) "
    "-> Tensor"
)
_operators.define(
    "packed_attention_backward(Tensor gradient, Tensor query, Tensor key, Tensor value, "
    "Tensor lengths, float? scale) -> (Tensor, Tensor, Tensor)"
)


@torch.library.impl(_operators, "packed_attention", "CompositeExplicitAutograd")
def _forward(
    query: Heads, key: Groups, value: Groups, lengths: Tensor, scale: float | None
) -> Float[Tensor, "1 tokens heads width"]:
    """`attend` outside a graph; the lengths of the rows are on the host."""
    module = nn.Module()  # as transformers knows that keys have fewer heads
    module.num_key_value_groups = query.shape[1] // key.shape[1]  # pyright: ignore[reportArgumentType]
    return attend(module, query, key, value, lengths, scaling=scale)[0].contiguous()


@torch.library.impl(_operators, "packed_attention_backward", "CompositeExplicitAutograd")
def _backward(
    gradient: Tensor, query: Heads, key: Groups, value: Groups, lengths: Tensor, scale: float | None
) -> tuple[Heads, Groups, Groups]:
    """Gradients of query, key and value.

    Attention is computed again: what torch's kernels keep for their gradients differs from kernel
    to kernel. In a fit of LoRA on a 7B model that is less than 1 % of the FLOPs.
    """
    inputs = tuple(sequence.detach().requires_grad_() for sequence in (query, key, value))
    with torch.enable_grad():
        output = _forward(inputs[0], inputs[1], inputs[2], lengths, scale)
    gradients = torch.autograd.grad(output, inputs, gradient)
    return gradients[0].contiguous(), gradients[1].contiguous(), gradients[2].contiguous()


# The backward operator differentiates by itself, which other settings of this key would forbid it.
_operators.impl("packed_attention_backward", torch.library.fallthrough_kernel, "Autograd")


@torch.library.register_fake("xmas::packed_attention")
def _(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor, scale: float | None) -> Tensor:
    rows, heads, tokens, _ = query.shape
    return value.new_empty(rows, tokens, heads, value.shape[-1])


@torch.library.register_fake("xmas::packed_attention_backward")
def _(gradient: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(sequence.new_empty(sequence.shape) for sequence in inputs[:3])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.scale = inputs[4]


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    operator = torch.ops.xmas.packed_attention_backward
    return (*operator(gradient, *ctx.saved_tensors, ctx.scale), None, None)


torch.library.register_autograd("xmas::packed_attention", _gradients, setup_context=_keep)


def _kind(language: PreTrainedModel) -> str:
    return cast("str", language.config._attn_implementation)
