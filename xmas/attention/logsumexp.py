"""The log-sum-exp of attention logits, which torch's fused kernels compute and the caller drops.

With it, single entries of a softmax follow without the sum over all keys: exp(logit - logsumexp).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_ON_REQUEST = _aten._scaled_dot_product_efficient_attention.default
_KERNELS = (
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _ON_REQUEST,
)


class KernelLogSumExp(TorchDispatchMode):
    """Within the context, keeps the log-sum-exp of the last call of a fused attention kernel.

    It is the second output of the kernels that `scaled_dot_product_attention` chooses among; their
    first output is the same with and without it. Other implementations, such as products over all
    keys, have none.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: Float[Tensor, "rows heads length"] | None = None

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is _ON_REQUEST:
            args = (*args[:4], True, *args[5:])  # `compute_log_sumexp`
        outputs = func(*args, **(kwargs or {}))
        if func in _KERNELS:
            self._kept = outputs[1][:, :, : args[0].shape[2]]  # some pad it to a multiple of 32
        return outputs

    def of(
        self, query: Float[Tensor, "rows heads length width"]
    ) -> Float[Tensor, "rows heads length"] | None:
        """Of these queries, in natural logarithms; None where the kernel did not compute it."""
        # a single query of grouped heads may have run as several queries of fewer heads
        return None if self._kept is None else self._kept.detach().reshape(query.shape[:3])
