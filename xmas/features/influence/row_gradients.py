"""The gradient of every row of a batch, from one backward pass over all of them.

Rows of a batch meet in no product of a language model but those over its weights, so the gradient
of a row's loss with respect to a linear layer is the product of that row's gradients of the layer's
outputs and its inputs, both of which the backward pass over the sum of all losses has.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xmas.features.losses.token_statistics import CHUNK_BYTES
from xmas.models.chat.labels import IGNORED

Take = Callable[[int, Float[Tensor, "rows out in"]], None]


def lora_layers(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The two linear layers of every LoRA update, by name; all their weights train, nothing else.

    Raises ValueError: the model has no LoRA, or updates with more than these weights (DoRA).
    """
    from peft.tuners.lora import LoraLayer

    layers: list[tuple[str, nn.Linear]] = []
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        if module.lora_magnitude_vector:
            raise ValueError(f"{name}: influence reads plain LoRA; set dora=false for its warm-up")
        for half in ("lora_A", "lora_B"):
            named = getattr(module, half).items()
            layers += [(f"{name}.{half}.{adapter}", layer) for adapter, layer in named]
    if not layers:
        raise ValueError("no LoRA in the model: influence reads its gradients; give it one")
    model.requires_grad_(False)
    for _, layer in layers:
        layer.weight.requires_grad_(True)
    return layers


@contextlib.contextmanager
def given_to(take: Take, layers: list[tuple[str, nn.Linear]]) -> Iterator[None]:
    """Give `take` the rows' gradients of each layer's weights during the backward passes inside.

    Args:
        take: gets the layer's number among `layers` and the gradients, float32, in the order of the
            backward pass. A layer that a pass used twice comes twice; the gradients add up.
    """

    def hook(number: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def forward(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            entering = inputs[0].detach()

            def backward(gradient: Tensor) -> None:
                # In 16 bits the products are made in 16 bits and summed in float32 by the kernel.
                product = torch.einsum("rlo,rli->roi", gradient, entering.to(gradient.dtype))
                take(number, product.float())

            if output.requires_grad:
                output.register_hook(backward)

        return forward

    handles = [
        layer.register_forward_hook(hook(number)) for number, (_, layer) in enumerate(layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def summed_losses(
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "rows length hidden"],
    labels: Int[Tensor, "rows length"],
    *,
    vocabulary: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> Float[Tensor, ""]:
    """The sum over rows of each row's mean cross-entropy of its answer tokens.

    Args:
        head: from hidden states to logits.
        vocabulary: the number of logits of a token.
        chunk_bytes: of the float32 logits that exist at once; they are made again in the backward
            pass.
    """
    targets = labels[:, 1:]
    answered = targets != IGNORED
    shares = (answered / answered.sum(dim=1, keepdim=True).clamp_min(1))[answered]

    def summed(hidden: Tensor, next_ids: Tensor, shares: Tensor) -> Tensor:
        losses = nn.functional.cross_entropy(head(hidden).float(), next_ids, reduction="none")
        return (losses * shares).sum()

    size = max(1, chunk_bytes // (4 * vocabulary))
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    chunks = (hidden[:, :-1][answered], targets[answered], shares)
    parts = zip(*(chunk.split(size) for chunk in chunks), strict=True)
    return torch.stack([checkpoint(summed, *part, **options) for part in parts]).sum()
