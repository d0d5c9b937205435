"""The loss of a fit: cross-entropy of the answers' tokens alone."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xmas.models.chat.batches import Places
from xmas.models.families import Features
from xmas.models.vlm import head_of, hidden_states, unwrap


def answer_loss(
    model: nn.Module,
    ids: Int[Tensor, "rows length"],
    mask: Bool[Tensor, "rows length"],
    labels: Int[Tensor, "rows length"],
    features: Features | None,
    *,
    sizes: Int[Tensor, "images 2"] | None = None,
    lengths: Int[Tensor, " packed"] | None = None,
    places: Places | None = None,
    logit_rows: int | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of the answers' tokens in this microbatch, as LLaVA weighs it.

    Without a labelled token the loss is 0, not NaN, and all parameters get a gradient of zeros:
    other ranks wait for it.

    Args:
        places: of answers and image tokens; None: found, for which the host waits.
        logit_rows: answer tokens whose logits exist at once, recomputed in the backward pass; None:
            all.
    """
    inner = unwrap(model)
    places = places or Places.of(ids, labels, inner.config.image_token_id)
    hidden = hidden_states(
        model, ids, mask, features, sizes=sizes, lengths=lengths, image_places=places.images
    )
    answers, head = places.answers, head_of(model)
    if not len(answers):
        return 0.0 * head(hidden[:, :1]).float().sum()
    hidden, next_ids = hidden.flatten(0, 1)[answers], labels.flatten()[answers + 1]
    if logit_rows is None or len(next_ids) <= logit_rows:
        return nn.functional.cross_entropy(head(hidden).float(), next_ids)

    def summed(hidden: Tensor, next_ids: Tensor) -> Tensor:
        return nn.functional.cross_entropy(head(hidden).float(), next_ids, reduction="sum")

    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    chunks = zip(hidden.split(logit_rows), next_ids.split(logit_rows), strict=True)
    sums = [checkpoint(summed, *chunk, **options) for chunk in chunks]
    return torch.stack(sums).sum() / len(next_ids)
