"""Variable-length attention: rows packed into one sequence attend to themselves only.

Attention is causal and without a mask, so that torch takes its flash kernel where there is one, and
nothing is computed across rows. Short rows of nearly one length are one call, padded at their ends,
which no token sees; others are a call each, since their padding costs more than calls do. The
lengths of the rows are passed in place of the mask. Under `flash_attention_2` transformers does the
same with one kernel for all rows.
"""

from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from xmas.models.chat.packing import positions

NAME = "xmas_packed"
# Their layers drop every argument of attention but the mask (transformers 5.23).
_MASK_ONLY = {"stablelm"}


@torch.compiler.disable  # the number of rows differs from batch to batch
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
    lengths = attention_mask.flatten().tolist()
    rest["is_causal"] = True
    longest = max(lengths)
    if longest <= short and longest * len(lengths) <= padded * sum(lengths):
        return _in_one_call(module, query, key, value, lengths, **rest), None
    rows = zip(*(whole.split(lengths, dim=2) for whole in (query, key, value)), strict=True)
    outputs = [
        sdpa_attention_forward(module, queries, keys, values, None, **rest)[0]
        for queries, keys, values in rows
    ]
    return torch.cat(outputs, dim=1), None


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
    outputs, _ = sdpa_attention_forward(module, *batch, attention_mask=None, **rest)
    return outputs.flatten(0, 1).index_select(0, place)[None]


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
        masks = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "attention_mask": None}
        masks |= {"max_length_q": longest, "max_length_k": longest}
    else:
        raise ValueError(
            f"attention {_kind(language)!r} would see across the rows of a packed batch; set "
            "hardware.packing=false, or hardware.attention to sdpa or flash_attention_2"
        )
    return masks | {"position_ids": positions(lengths)[None]}


def prepare(language: PreTrainedModel) -> None:
    """Have `language` keep packed rows apart. Raises ValueError: it cannot; says why."""
    windows = {"sliding_attention", "chunked_attention", "linear_attention"}
    unsupported = windows & set(getattr(language.config, "layer_types", None) or ())
    if unsupported:
        raise ValueError(
            f"a {language.config.model_type} with {unsupported.pop()} cannot be packed; set "
            "hardware.packing=false"
        )
    if language.config.model_type in _MASK_ONLY and "flash" in _kind(language):
        raise ValueError(
            f"the layers of a {language.config.model_type} do not pass to {_kind(language)} "
            "where packed rows end; set hardware.attention=sdpa or hardware.packing=false"
        )
    if _kind(language) == "sdpa":
        language.set_attn_implementation(NAME)
    if _kind(language) != NAME and "flash" not in _kind(language):
        raise ValueError(
            f"attention {_kind(language)!r} does not keep packed rows apart; set "
            "hardware.packing=false, or hardware.attention to sdpa or flash_attention_2"
        )


def _kind(language: PreTrainedModel) -> str:
    return cast("str", language.config._attn_implementation)
