"""The loss of a fit: cross-entropy of the answers' tokens alone."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xmas.models.chat.labels import IGNORED
from xmas.models.vlm import hidden_states, unwrap


def answer_loss(
    model: nn.Module,
    ids: Int[Tensor, "rows length"],
    mask: Bool[Tensor, "rows length"],
    labels: Int[Tensor, "rows length"],
    features: Float[Tensor, "tiles patches channels"] | None,
    *,
    sizes: Int[Tensor, "images 2"] | None = None,
    lengths: Int[Tensor, " packed"] | None = None,
    logit_rows: int | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of the answers' tokens in this microbatch, as LLaVA weighs it.

    Without a labelled token the loss is 0, not NaN, and all parameters get a gradient of zeros:
    other ranks wait for it.

    Args:
        logit_rows: answer tokens whose logits exist at once, recomputed in the backward pass; None:
            all.
    """
    hidden = hidden_states(model, ids, mask, features, sizes=sizes, lengths=lengths)[:, :-1]
    next_ids = labels[:, 1:]
    answered, head = next_ids != IGNORED, unwrap(model).lm_head
    if not bool(answered.any()):
        return 0.0 * head(hidden[:, :1]).float().sum()
    hidden, next_ids = hidden[answered], next_ids[answered]
    if logit_rows is None or len(next_ids) <= logit_rows:
        return nn.functional.cross_entropy(head(hidden).float(), next_ids)

    def summed(hidden: Tensor, next_ids: Tensor) -> Tensor:
        return nn.functional.cross_entropy(head(hidden).float(), next_ids, reduction="sum")

    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    chunks = zip(hidden.split(logit_rows), next_ids.split(logit_rows), strict=True)
    sums = [checkpoint(summed, *chunk, **options) for chunk in chunks]
    return torch.stack(sums).sum() / len(next_ids)
