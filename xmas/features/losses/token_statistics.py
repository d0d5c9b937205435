"""What a model's logits say of the right answer: loss, EL2N and margin, as means over its tokens.

Logits exist at the answers' positions only, a bounded number of them at once, and are not kept.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from xmas.models.chat.labels import IGNORED

STATISTICS = ("loss", "el2n", "margin")
LOGITS = 1 << 27  # bytes of the logits of one chunk; three tensors of this size exist at once


def token_statistics(
    logits: Float[Tensor, "tokens vocabulary"], wanted: Int[Tensor, " tokens"]
) -> Float[Tensor, "tokens 3"]:
    """For every token the cross-entropy in nats; EL2N, in [0, sqrt(2)]; the margin, in [-1, 1].

    EL2N is the Euclidean norm of the softmax minus the one-hot label (arXiv 2107.07075, there of a
    class), the margin the right token's probability minus the largest other one (AUM, arXiv
    2001.10528, there of logits; as in COINCIDE's D2-Pruning).
    """
    loss = nn.functional.cross_entropy(logits, wanted, reduction="none")
    shares = logits.softmax(dim=1)
    right = shares.gather(1, wanted[:, None])[:, 0]
    others = shares.scatter_(1, wanted[:, None], 0.0)
    missed = others.sum(dim=1)  # 1 - right, which would cancel where the model is sure
    el2n = torch.hypot(missed, torch.linalg.vector_norm(others, dim=1))
    return torch.stack([loss, el2n, right - others.amax(dim=1)], dim=1)


def answer_statistics(
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "rows length hidden"],
    labels: Int[Tensor, "rows length"],
    *,
    vocabulary: int,
) -> tuple[Float[Tensor, "rows 3"], Int[Tensor, " rows"]]:
    """The means of `token_statistics` over every row's answer tokens, and how many these are.

    A token is predicted from the hidden state in front of it, so one that opens a row is not
    counted. Sums are float64. NaN where a row has no answer token.
    """
    wanted = labels[:, 1:]
    answered = wanted != IGNORED
    states, tokens = hidden[:, :-1][answered], wanted[answered]
    found = torch.zeros((*wanted.shape, len(STATISTICS)), dtype=torch.float64, device=hidden.device)
    if len(tokens):
        size = max(1, LOGITS // (4 * vocabulary))
        parts = [
            token_statistics(head(part).float(), those)
            for part, those in zip(states.split(size), tokens.split(size), strict=True)
        ]
        found[answered] = torch.cat(parts).double()
    counts = answered.sum(dim=1)
    return found.sum(dim=1) / counts[:, None], counts
