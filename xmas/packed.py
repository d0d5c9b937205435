"""Attention inside rows that stand end to end in one line.

Each row is a call of its own, causal and without a mask, so that torch takes its flash kernel where
there is one and nothing is computed across rows. Under `flash_attention_2` transformers does the
same with one kernel for all; both are told where rows end by the same arguments.
"""

from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from xmas.chat.packing import positions

NAME = "xmas_packed"
_DEAF = {"stablelm"}  # its layers drop what attention is told beside the mask (transformers 5.23)


@torch.compiler.disable  # the number of rows differs from batch to batch
def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    row_lengths: list[int] | None = None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    if row_lengths is None and attention_mask is not None and attention_mask.numel() == 1:
        raise ValueError(  # the mask of a packed batch came through, where rows end did not
            f"{type(module).__name__} does not hand on where packed rows end; set "
            "hardware.packing=false"
        )
    if row_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
    parts = zip(*(one.split(row_lengths, dim=2) for one in (query, key, value)), strict=True)
    rest["is_causal"] = True
    seen = [
        sdpa_attention_forward(module, asked, keys, values, None, **rest)[0]
        for asked, keys, values in parts
    ]
    return torch.cat(seen, dim=1), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def arguments(language: PreTrainedModel, lengths: Int[Tensor, " rows"]) -> dict[str, Any]:
    """What tells `language` that its input is one line of rows of these lengths.

    Raises ValueError: its attention does not keep rows apart.
    """
    if _kind(language) == NAME:
        # The mask is there so that transformers makes none; it is not read.
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=lengths.device)
        told: dict[str, Any] = {"row_lengths": lengths.tolist(), "attention_mask": mask}
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
    if language.config.model_type in _DEAF:
        raise ValueError(
            f"the layers of a {language.config.model_type} do not hand on where packed rows end; "
            "set hardware.packing=false"
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
