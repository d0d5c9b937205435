"""Stand-in of flash-attention 2: its interface and its checks of arguments, in plain torch.

Source of the checks: flash-attention `csrc/flash_attn/flash_api.cpp`, `mha_fwd` and
`mha_varlen_fwd`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__version__ = "2.8.3"
CALLS: list[tuple[str, int, int]] = []  # "dense" or "varlen", texts, tokens


def _check(*tensors: Tensor) -> None:
    kinds = {tensor.dtype for tensor in tensors}
    if not all(tensor.is_cuda for tensor in tensors):
        raise RuntimeError("FlashAttention only supports CUDA tensors")
    if kinds not in ({torch.float16}, {torch.bfloat16}):
        raise RuntimeError(f"FlashAttention only support fp16 and bf16 data type, not {kinds}")
    if any(tensor.stride(-1) != 1 for tensor in tensors):
        raise RuntimeError("Input tensor must have contiguous last dimension")
    if tensors[0].shape[-1] % 8 or tensors[0].shape[-1] > 256:
        raise RuntimeError("head_size should be a multiple of 8, at most 256")
    if tensors[0].shape[-2] % tensors[1].shape[-2]:
        raise RuntimeError("Number of heads in key/value must divide number of heads in query")


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float | None, causal: bool) -> Tensor:
    """Of batches; a causal mask ends at the last key, as flash-attention's since 2.1."""
    queries, keys = query.shape[1], key.shape[1]
    mask = None
    if causal:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device)
        mask = mask.tril(keys - queries)
    attended = F.scaled_dot_product_attention(
        *(tensor.transpose(1, 2) for tensor in (query, key, value)),
        attn_mask=mask,
        scale=scale,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return attended.transpose(1, 2)


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    **others: object,
) -> Tensor:
    _check(q, k, v)
    CALLS.append(("dense", q.shape[0], q.shape[0] * q.shape[1]))
    return _attend(q, k, v, softmax_scale, causal)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    **others: object,
) -> Tensor:
    _check(q, k, v)
    for ends, longest, tokens in (
        (cu_seqlens_q, max_seqlen_q, len(q)),
        (cu_seqlens_k, max_seqlen_k, len(k)),
    ):
        if ends.dtype != torch.int32 or not ends.is_cuda or not ends.is_contiguous():
            raise RuntimeError("cu_seqlens must be contiguous, int32 and on the device")
        if not isinstance(longest, int):
            raise TypeError(f"max_seqlen is {type(longest).__name__}, not int")
        lengths = ends.cpu().diff()
        if int(ends[-1]) != tokens or int(lengths.max()) > longest:
            raise RuntimeError(f"cu_seqlens end at {int(ends[-1])} of {tokens} tokens, {lengths}")
    CALLS.append(("varlen", len(cu_seqlens_q) - 1, len(q)))
    bounds = zip(
        cu_seqlens_q.tolist(), cu_seqlens_q.tolist()[1:],
        cu_seqlens_k.tolist(), cu_seqlens_k.tolist()[1:], strict=False,
    )  # fmt: skip
    texts = [
        _attend(q[None, first:last], k[None, begin:end], v[None, begin:end], softmax_scale, causal)
        for first, last, begin, end in bounds
    ]
    return torch.cat(texts, dim=1)[0]


def flash_attn_with_kvcache(*arguments: object, **others: object) -> Tensor:
    raise NotImplementedError("the stand-in has no cache")
