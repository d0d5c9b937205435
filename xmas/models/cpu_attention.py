"""Causal attention on a CPU within `by_onednn`: its many small products stay with MKL.

torch's flash kernel for CPUs multiplies a few queries of a head at a time, which takes four times
as long by oneDNN, forward and backward. Backward passes run outside any context of the forward one.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from xmas.models.cpu_matmul import by_mkl

Heads = Float[Tensor, "rows heads length width"]


def takes(query: Tensor, value: Tensor) -> bool:
    """Whether the flash kernel takes these: on a CPU, in float32, of one width."""
    on_cpu = query.device.type == "cpu" and query.dtype == value.dtype == torch.float32
    return on_cpu and query.shape[-1] == value.shape[-1]


def causal(query: Heads, key: Heads, value: Heads, scale: float | None = None) -> Heads:
    """`scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)`."""
    return _Flash.apply(query, key, value, scale)  # pyright: ignore[reportReturnType]


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Heads, key: Heads, value: Heads, scale: float | None) -> Heads:
        with by_mkl():
            output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, is_causal=True, scale=scale
            )
        ctx.save_for_backward(query, key, value, output, logsumexp)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Heads) -> tuple[Heads, Heads, Heads, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        with by_mkl():
            gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                gradient, *ctx.saved_tensors, 0.0, True, scale=ctx.scale
            )
        return (*gradients, None)
