"""The precision of a model's parameters, apart from its buffers."""

import torch
from torch import nn


def cast_parameters(
    model: nn.Module, dtype: torch.dtype, device: torch.device | str | None = None
) -> nn.Module:
    """`model` with all parameters in `dtype`, its buffers as they are.

    `model.to(dtype)` would round buffers too, among them the frequencies of rotary embeddings: at
    position 700 of a 128-wide head their phases would be off by 0.86 radians in bfloat16.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
    return model if device is None else model.to(device)
