"""Loss, EL2N and margin of answers, as means over their tokens.

Logits are computed at the answers' positions only, in chunks of bounded memory, and are not kept.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from xmas.models.chat.labels import IGNORED

STATISTICS = ("loss", "el2n", "margin")
CHUNK_BYTES = (
    1 << 27
)  # of the float32 logits of one chunk; three tensors of this size exist at once


def token_statistics(
    logits: Float[Tensor, "tokens vocabulary"], target: Int[Tensor, " tokens"]
) -> Float[Tensor, "tokens 3"]:
    """Cross-entropy in nats, EL2N in [0, sqrt(2)] and margin in [-1, 1] of every token.

    EL2N is the Euclidean norm of the softmax minus the one-hot label (arXiv 2107.07075, there of a
    class), the margin the correct token's probability minus the largest other one (AUM, arXiv
    2001.10528, there of logits; as in COINCIDE's D2-Pruning).
    """
    loss = nn.functional.cross_entropy(logits, target, reduction="none")
    shares = logits.softmax(dim=1)
    right = shares.gather(1, target[:, None])[:, 0]
    others = shares.scatter_(1, target[:, None], 0.0)
    error = others.sum(dim=1)  # 1 - right, which would cancel where the model is sure
    el2n = torch.hypot(error, torch.linalg.vector_norm(others, dim=1))
    return torch.stack([loss, el2n, right - others.amax(dim=1)], dim=1)


def answer_token_statistics(
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "rows length hidden"],
    labels: Int[Tensor, "rows length"],
    *,
    vocabulary: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Float[Tensor, "tokens 3"], Bool[Tensor, "rows length_1"]]:
    """`token_statistics` of all answer tokens, row by row, and where these are, float64.

    A token is predicted from the hidden state of the preceding one, so the first token of a row is
    not counted.

    Args:
        head: from hidden states to logits.
        vocabulary: the number of logits of a token.
        chunk_bytes: of the float32 logits that exist at once, three times.
    """
    targets = labels[:, 1:]
    answered = targets != IGNORED
    states, tokens = hidden[:, :-1][answered], targets[answered]
    if not len(tokens):
        empty = torch.zeros((0, len(STATISTICS)), dtype=torch.float64, device=hidden.device)
        return empty, answered
    size = max(1, chunk_bytes // (4 * vocabulary))
    chunks = [
        token_statistics(head(chunk).float(), target)
        for chunk, target in zip(states.split(size), tokens.split(size), strict=True)
    ]
    return torch.cat(chunks).double(), answered


def answer_statistics(
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "rows length hidden"],
    labels: Int[Tensor, "rows length"],
    *,
    vocabulary: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Float[Tensor, "rows 3"], Int[Tensor, " rows"]]:
    """The means of `answer_token_statistics` over every row's answer tokens, and their number.

    Sums are float64. NaN where a row has no answer token. Arguments as there.
    """
    values, answered = answer_token_statistics(
        head, hidden, labels, vocabulary=vocabulary, chunk_bytes=chunk_bytes
    )
    sums = torch.zeros(
        (*answered.shape, len(STATISTICS)), dtype=torch.float64, device=hidden.device
    )
    sums[answered] = values
    counts = answered.sum(dim=1)
    return sums.sum(dim=1) / counts[:, None], counts
