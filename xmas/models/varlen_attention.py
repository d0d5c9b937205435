"""Attention inside rows that stand end to end in one line.

Attention is causal and without a mask, so that torch takes its flash kernel where there is one, and
nothing is computed across rows. Short rows of nearly one length are one call, padded behind their
ends, where no token looks; others are a call each, for their padding costs more than calls do. The
lengths of the rows stand where a model takes its mask. Under `flash_attention_2` transformers does
the same with one kernel for all rows.
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
SHORT = 128  # tokens of rows that may be one call
PADDED = 1.5  # and at most so many with padding to one without
_DEAF = {"stablelm"}  # its layers drop what attention is told beside the mask (transformers 5.23)


@torch.compiler.disable  # the number of rows differs from batch to batch
def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
    lengths = attention_mask.flatten().tolist()
    rest["is_causal"] = True
    longest = max(lengths)
    if longest <= SHORT and longest * len(lengths) <= PADDED * sum(lengths):
        return _in_one_call(module, query, key, value, lengths, **rest), None
    parts = zip(*(one.split(lengths, dim=2) for one in (query, key, value)), strict=True)
    seen = [
        sdpa_attention_forward(module, asked, keys, values, None, **rest)[0]
        for asked, keys, values in parts
    ]
    return torch.cat(seen, dim=1), None


def _in_one_call(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, lengths: list[int], **rest: Any
) -> Tensor:
    """Rows side by side, each padded at its end: the line's tokens are put there and taken back."""
    longest = max(lengths)
    at = torch.cat([row * longest + torch.arange(held) for row, held in enumerate(lengths)])
    at = at.to(query.device, non_blocking=True)

    def beside(line: Tensor) -> Tensor:
        tokens = line[0].transpose(0, 1)
        padded = tokens.new_zeros(len(lengths) * longest, *tokens.shape[1:])
        padded = padded.index_copy(0, at, tokens).unflatten(0, (len(lengths), longest))
        return padded.transpose(1, 2)

    lines = beside(query), beside(key), beside(value)
    seen, _ = sdpa_attention_forward(module, *lines, attention_mask=None, **rest)
    return seen.flatten(0, 1).index_select(0, at)[None]


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def arguments(language: PreTrainedModel, lengths: Int[Tensor, " rows"]) -> dict[str, Any]:
    """What tells `language` that its input is one line of rows of these lengths.

    Raises ValueError: its attention does not keep rows apart.
    """
    if _kind(language) == NAME:
        # A mask of four axes passes every model as it is; arguments of its own StableLM drops.
        told: dict[str, Any] = {"attention_mask": lengths.cpu()[None, None, None]}
    elif "flash" in _kind(language):
        ends = nn.functional.pad(torch.cumsum(lengths, 0, dtype=torch.int32), (1, 0))
        longest = int(lengths.max())
        told = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "attention_mask": None}
        told |= {"max_length_q": longest, "max_length_k": longest}
    else:
        raise ValueError(
            f"attention {_kind(language)!r} would see across the rows of a packed batch; set "
            "hardware.packing=false, or hardware.attention to sdpa or flash_attention_2"
        )
    return told | {"position_ids": positions(lengths)[None]}


def prepare(language: PreTrainedModel) -> None:
    """Have `language` keep packed rows apart. Raises ValueError: it cannot; says why."""
    windows = {"sliding_attention", "chunked_attention", "linear_attention"}
    found = windows & set(getattr(language.config, "layer_types", None) or ())
    if found:
        raise ValueError(
            f"a {language.config.model_type} with {found.pop()} cannot be packed; set "
            "hardware.packing=false"
        )
    if language.config.model_type in _DEAF and "flash" in _kind(language):
        raise ValueError(
            f"the layers of a {language.config.model_type} do not hand on to {_kind(language)} "
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
