"""Peak memory of a fit, a scan or a generation in bytes, from a model's shape.

Weights, gradients and AdamW's two moments are exact; activations are what autograd keeps of a Llama
block, within 10 %; the overhead of allocators is left out.
"""

import math

from xmas.attention.engine import UNSOLVED_BYTES
from xmas.attention.shares import BLOCK_BYTES
from xmas.models.shape import Decoder, Shape

PROCESS = 0.8e9  # Python with torch, transformers and lightning imported, measured: 0.7 GB
CONTEXT = 1.0e9  # CUDA context and workspaces: assumed
ADAM = 8  # bytes of its moments for a trained parameter, float32


def block(decoder: Decoder) -> int:
    """Numbers that autograd keeps of one token in one block: inputs of norms and matrices, queries,
    keys and values before and after rotation, both factors of the gate and their product.
    """
    inner, shared = decoder.heads * decoder.head_dim, decoder.groups * decoder.head_dim
    return (
        5 * decoder.width
        + 3 * inner
        + 4 * shared
        + (4 if decoder.gated else 3) * (decoder.feed_forward)
    )


def activations(decoder: Decoder, tokens: float, *, bits: int, checkpointing: float = 0.0) -> float:
    """Bytes kept for the backward pass of `tokens`.

    Of the blocks that are recomputed (the share `checkpointing`) only inputs are kept, and one
    whole block while it is recomputed; the backward pass of the others is over by then.
    Under 16-bit autocast norms and the residual stream stay float32: about 3 of 4 bytes remain.
    """
    per_block = block(decoder) * (4.0 if bits == 32 else 3.0)
    recomputed = math.ceil(checkpointing * decoder.layers)
    whole = max(decoder.layers - recomputed, 1)
    return tokens * (whole * per_block + recomputed * decoder.width * 4.0)


def trained(shape: Shape, rank: int | None = None) -> int:
    """Parameters that a fit trains: projector and language model, or projector and LoRA."""
    language = shape.decoder.parameters if rank is None else shape.decoder.lora(rank)
    return language + shape.projector_parameters


def of_fit(
    shape: Shape,
    *,
    tokens: float,
    answers: float,
    bits: int,
    rank: int | None = None,
    checkpointing: float = 0.0,
    halved: bool = False,
) -> float:
    """Peak bytes of a fit on a microbatch of `tokens` padded tokens, `answers` of them with logits.

    Weights are float32, with another copy in 16 bits under 16-bit autocast. `halved`: frozen
    weights have 16 bits alone under 16-bit autocast.
    """
    learning = trained(shape, rank)
    frozen = shape.parameters - (learning if rank is None else shape.projector_parameters)
    weight = 4 if bits == 32 else 6
    frozen_bytes = 2 if halved and bits == 16 else weight
    logits = 3 * 4.0 * answers * shape.decoder.vocabulary  # themselves, log-softmax, gradient
    return (
        learning * (weight + 4 + ADAM)
        + frozen * frozen_bytes
        + activations(shape.decoder, tokens, bits=bits, checkpointing=checkpointing)
        + logits
    )


def of_scan(shape: Shape, *, tokens: float, text: float, bits: int) -> float:
    """Peak bytes of a batch in a scan: weights, one block's numbers, attention of its text tokens.

    Weights are float32 as loaded, with another copy in 16 bits if the scan runs in 16 bits. `text`
    is the number of text tokens in the batch. Their attention to the image, float32, is kept of as
    many snapshots as the solver gets at once, which copies it in float64 and makes Gram matrices;
    over all keys it exists in about three blocks.
    """
    unsolved = max(UNSOLVED_BYTES, 4.0 * text * shape.image_tokens)
    metric = 4 * unsolved + 3 * BLOCK_BYTES["cuda"]
    stream = tokens * block(shape.decoder) * bits / 8
    return shape.parameters * (4.0 if bits == 32 else 6.0) + stream + metric


def of_cached_token(decoder: Decoder, bits: int) -> float:
    """Bytes of the keys and values of one token, all layers."""
    return 2 * decoder.layers * decoder.groups * decoder.head_dim * bits / 8


def of_generation(shape: Shape, *, tokens: float, bits: int) -> float:
    """Peak bytes of a generation: weights and the KV cache of `tokens`, prompts and answers."""
    decoder = shape.decoder
    weights_and_stream = (shape.parameters + block(decoder) * tokens) * bits / 8
    return weights_and_stream + of_cached_token(decoder, bits) * tokens
