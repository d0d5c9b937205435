"""What a fit keeps in a device's memory, and how many blocks it recomputes to stay inside.

Weights, gradients and AdamW's two moments are exact; activations are what autograd keeps of a Llama
block, within 10 %. The vision tower's own are left out: it is frozen, so none are kept.
"""

import dataclasses
import math

from xmas.models.adapters import Adapters, adapters_of
from xmas.models.shape import Decoder, Shape

ADAM = 8  # bytes of its moments for a trained parameter, float32
NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8  # bytes of a 4-bit weight, its part of scales included
USABLE = 0.92  # of a device's memory; the rest is context, workspaces, fragments: assumed


def block(decoder: Decoder) -> int:
    """Numbers that autograd keeps of one token in one block: inputs of norms and matrices, queries,
    keys and values before and after rotation, both factors of the gate and their product.
    """
    inner, shared = decoder.heads * decoder.head_dim, decoder.groups * decoder.head_dim
    factors = 4 if decoder.gated else 3
    return 5 * decoder.width + 3 * inner + 4 * shared + factors * decoder.feed_forward


def block_bytes(decoder: Decoder, *, bits: int, rank: int | Adapters | None) -> float:
    """Bytes that autograd keeps of one token in one block.

    Under 16-bit autocast the trained residual stream and its norms are float32, and each matrix has
    its own 16-bit copy of its input. Frozen matrices keep no input; what LoRA keeps is its mean
    over the blocks.

    Args:
        rank: of LoRA on every layer, or LoRA in numbers; 0: frozen blocks, through which gradients
            pass; None: trained in full.
    """
    size, width, forward = bits / 8, decoder.width, decoder.feed_forward
    attended = 2 * size * decoder.head_dim * (decoder.heads + decoder.groups)  # q, k, v and output
    factors = 4 if decoder.gated else 3
    if rank is None and bits == 32:
        return 4.0 * block(decoder)
    if rank is None:
        return 26.0 * width + attended + size * factors * forward
    lora = adapters_of(decoder, rank)
    thin = 0.0 if lora is None else lora.bytes_of_a_token(size) / decoder.layers
    return 8.0 * width + attended + size * (factors - 1) * forward + thin


def trained(shape: Shape, rank: int | Adapters | None = None) -> int:
    """Parameters that a fit trains: projector and language model, or projector and LoRA."""
    lora = adapters_of(shape.decoder, rank)
    language = shape.decoder.parameters if lora is None else lora.parameters
    return language + (shape.projector_parameters if lora is None or lora.connector else 0)


def states(
    shape: Shape,
    *,
    bits: int,
    rank: int | Adapters | None = None,
    halved: bool = False,
    shards: int = 1,
) -> float:
    """Bytes of weights, gradients and moments on a device.

    Weights are float32, with another copy in 16 bits under 16-bit autocast. Of 4-bit weights those
    of the largest matrix exist in the type of products as well, while it is multiplied with.

    Args:
        halved: frozen weights have 16 bits alone under 16-bit autocast.
        shards: devices that share them (FSDP2). Embedding, head and projector are gathered on each
            during a step, and two blocks: one while it is computed, the next while it arrives.
    """
    copy = 0 if bits == 32 else 2  # of a float32 weight, under autocast
    frozen = 2 if halved and bits == 16 else 4
    frozen_copy = copy if frozen == 4 else 0
    learning = trained(shape, rank)
    remaining = shape.parameters - learning
    if rank is not None:  # LoRA is no part of the shape; PEFT keeps the connector's first weights
        remaining = shape.parameters - (0 if rank != 0 else shape.projector_parameters)
    lora = adapters_of(shape.decoder, rank)
    if lora is not None and lora.quantised:
        linear = shape.decoder.linear
        whole = bits / 8 * max(a * b for a, b in shape.decoder.matrices)
        quantised = linear * NF4 + whole
        remaining -= linear
    else:
        quantised = 0.0
    if shards == 1:
        return learning * (8.0 + ADAM + copy) + remaining * (frozen + frozen_copy) + quantised
    decoder, tower = shape.decoder, shape.tower.parameters
    stored = learning * (8.0 + ADAM) + (remaining - tower) * frozen
    table = (1 if decoder.tied else 2) * decoder.vocabulary * decoder.width
    gathered_block = (4 - copy + (4 if rank is None else 0)) * decoder.linear / decoder.layers
    return (
        stored / shards
        + tower * (frozen + frozen_copy)
        + table * (8 + copy if rank is None else frozen + frozen_copy)
        + shape.projector_parameters * (8 + copy)
        + 2 * gathered_block
    )


@dataclasses.dataclass(frozen=True)
class FitMemory:
    """What one device keeps during a fit, from one microbatch to the next."""

    decoder: Decoder
    states: float  # bytes of weights, gradients and moments
    bits: int  # of matrix products
    rank: int | Adapters | None = None  # of LoRA; 0: frozen blocks; None: trained in full
    logit_rows: int | None = None  # answer tokens whose logits exist at once; None: all

    def peak(self, tokens: float, answers: float, recomputed: int) -> float:
        """Peak bytes with a microbatch of `tokens`, pads counted, of which `answers` have logits.

        Of the first `recomputed` blocks only inputs are kept, and one whole block while it is
        recomputed; the backward pass of the others is over by then.
        """
        per_block = block_bytes(self.decoder, bits=self.bits, rank=self.rank)
        whole = max(self.decoder.layers - recomputed, 1)
        activations = tokens * (whole * per_block + recomputed * self.decoder.width * 4.0)
        at_once = answers if self.logit_rows is None else min(answers, self.logit_rows)
        logits = 3 * 4.0 * at_once * self.decoder.vocabulary  # themselves, log-softmax, gradient
        return self.states + activations + logits

    def recomputed(
        self, tokens: float, answers: float, *, share: float | None, memory: float | None
    ) -> int:
        """Blocks to recompute in a microbatch.

        Args:
            share: of all blocks; None: as few as fit into the memory, all if none do.
            memory: bytes of the device; None: not limited.
        """
        if share is not None:
            return math.ceil(share * self.decoder.layers)
        if memory is None:
            return 0
        excess = self.peak(tokens, answers, 0) - USABLE * memory
        saved = block_bytes(self.decoder, bits=self.bits, rank=self.rank) - 4.0 * self.decoder.width
        return min(max(math.ceil(excess / (tokens * saved)), 0), self.decoder.layers)
