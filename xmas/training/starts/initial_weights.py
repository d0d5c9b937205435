"""Initial weights with which a small language model learns to look things up in minutes.

With the usual independent random weights a small model learns to compare late and suddenly, at a
step that depends on rounding. Here images and words share a space from the start, and attention
finds what resembles the query.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_NOISE = 0.3  # of a word's embedding, relative to what the tower's head says of it
_LINEAR = 4.0  # GELU is the identity there, up to 1e-4
_SMALL = 0.2  # standard deviation of what passes through the GELU


@torch.no_grad()
def attend_alike(attention: Any, strength: float) -> None:
    """Correlate keys with queries and outputs with values: tokens attend to what is like them.

    Source: Trockman and Kolter, Mimetic Initialization of Self-Attention Layers (arXiv 2305.09828),
    with correlated random matrices where they factorise a noisy identity.

    Args:
        attention: a block's self-attention with as many key heads as heads, changed in place.
        strength: correlation, 0 for independent weights.
    """
    rest = (1 - strength**2) ** 0.5
    key, output = attention.k_proj.weight, attention.o_proj.weight
    key.copy_(strength * attention.q_proj.weight + rest * key)
    output.copy_(strength * attention.v_proj.weight.T + rest * output)


@torch.no_grad()
def embed_as_predicted(
    embeddings: nn.Embedding, head: Float[Tensor, "vocabulary width"], seed: int
) -> None:
    """Embed a word as the direction of image features that predict it, with some noise.

    Args:
        embeddings: of the language model, `width` wide, changed in place; words whose head is zero
            keep theirs.
        head: weights that predict a picture's words from the mean of its features.
        seed: of the noise.
    """
    words = head.abs().sum(dim=1).nonzero()[:, 0]
    directions = head[words] - head[words].mean(dim=0)
    noise = torch.randn(directions.shape, generator=torch.Generator().manual_seed(seed))
    scale = embeddings.embedding_dim**-0.5
    embeddings.weight[words] = scale * (directions / directions.std() + _NOISE * noise)


@torch.no_grad()
def project_unchanged(
    first: nn.Linear, second: nn.Linear, mean: Float[Tensor, " width"], std: float
) -> None:
    """Make two square layers with a GELU between them pass on features, centred and scaled.

    Args:
        first, second: changed in place; the output has the scale of embeddings.
        mean: of the features.
        std: of the features, over all channels.
    """
    width = len(mean)
    identity, scale = torch.eye(width), _SMALL / std
    first.weight.copy_(identity * scale)
    first.bias.copy_(_LINEAR - mean * scale)
    second.weight.copy_(identity * width**-0.5 / _SMALL)
    second.bias.fill_(-_LINEAR * width**-0.5 / _SMALL)
