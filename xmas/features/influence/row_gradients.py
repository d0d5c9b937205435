"""The gradient of every row of a batch, from one backward pass over all of them.

Rows of a batch, padded or packed, meet in no product of a language model but those over its
weights, so the gradient of a row's loss with respect to a linear layer is the product of that row's
gradients of the layer's outputs and its inputs, both of which the backward pass over the sum of all
losses has.
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
def given_to(
    take: Take, layers: list[tuple[str, nn.Linear]], lengths: Int[Tensor, " rows"] | None = None
) -> Iterator[None]:
    """Give `take` the rows' gradients of each layer's weights during the backward passes inside.

    Args:
        take: gets the layer's number among `layers` and the gradients, in the precision of the
            layer's outputs and the order of the backward pass. A layer that a pass used twice comes
            twice; the gradients add up.
        lengths: of rows packed into one line; None: each line is a row.
    """

    def hook(number: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def forward(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            entering = inputs[0].detach()

            def backward(gradient: Tensor) -> None:
                # In 16 bits the products are made in 16 bits and summed in float32 by the kernel.
                take(number, _by_row(gradient, entering.to(gradient.dtype), lengths))

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


def _by_row(
    gradient: Float[Tensor, "lines length out"],
    entering: Float[Tensor, "lines length in"],
    lengths: Int[Tensor, " rows"] | None,
) -> Float[Tensor, "rows out in"]:
    """The products of gradients and inputs, summed over the tokens of each row."""
    if lengths is None:
        return torch.einsum("rlo,rli->roi", gradient, entering)
    rows = zip(*(tokens[0].split(lengths.tolist()) for tokens in (gradient, entering)), strict=True)
    return torch.stack([outputs.T @ inputs for outputs, inputs in rows])


def rows_of_answers(
    labels: Int[Tensor, "lines length"], lengths: Int[Tensor, " rows"] | None = None
) -> Int[Tensor, " answers"]:
    """The row of each token whose next token has a label, in the order of the tokens.

    Args:
        lengths: of rows packed into one line; None: each line is a row.
    """
    if lengths is None:
        rows = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)
    else:
        packed = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        rows = packed[None].to(labels.device, non_blocking=True)
    return rows[:, 1:][labels[:, 1:] != IGNORED]


def summed_losses(
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "lines length hidden"],
    labels: Int[Tensor, "lines length"],
    rows: Int[Tensor, " answers"],
    *,
    vocabulary: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> Float[Tensor, ""]:
    """The sum over rows of each row's mean cross-entropy of its answer tokens.

    Args:
        head: from hidden states to logits.
        rows: of the answer tokens, see `rows_of_answers`.
        vocabulary: the number of logits of a token.
        chunk_bytes: of the float32 logits that exist at once; they are made again in the backward
            pass.
    """
    targets = labels[:, 1:]
    answered = targets != IGNORED
    counts = torch.bincount(rows)[rows]  # answer tokens of each one's row

    def summed(hidden: Tensor, next_ids: Tensor, counts: Tensor) -> Tensor:
        logits = head(hidden)
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return (nn.functional.cross_entropy(precise, next_ids, reduction="none") / counts).sum()

    size = max(1, chunk_bytes // (4 * vocabulary))
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    chunks = (hidden[:, :-1][answered], targets[answered], counts)
    parts = zip(*(chunk.split(size) for chunk in chunks), strict=True)
    return torch.stack([checkpoint(summed, *part, **options) for part in parts]).sum()
