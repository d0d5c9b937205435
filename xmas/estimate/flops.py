"""FLOPs of everything that multiplies matrices, from a model's shape; a multiply-add counts two.

Norms, softmax, activations and optimiser steps are left out: a few in a thousand at full size.
`fused` is torch's fused attention: causal, so half of the square, and recomputed in the backward
pass. Unfused attention computes the whole square, which is what `FlopCounterMode` counts.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from xmas.models.adapters import Adapters, adapters_of
from xmas.models.shape import Decoder, Shape, Tower


@dataclasses.dataclass(frozen=True)
class Load:
    """The input of a model, summed over rows; lengths include the padding of their batches."""

    rows: float = 0.0
    tokens: float = 0.0  # the image's included
    squares: float = 0.0  # of the lengths
    answers: float = 0.0  # positions with a loss
    images: float = 0.0  # rows with an image
    cross: float = 0.0  # text rows of the metric times the lengths

    def times(self, factor: float) -> "Load":
        """The same rows `factor` times."""
        return Load(*(factor * value for value in dataclasses.astuple(self)))

    def sharing(self, prefix: float, rows_per_image: float) -> "Load":
        """The load if rows of one image share the `prefix` tokens before their text."""
        saved = self.images * (1 - 1 / rows_per_image)
        return dataclasses.replace(
            self, tokens=self.tokens - saved * prefix, squares=self.squares - saved * prefix**2
        )


def attention(decoder: Decoder, squares: float, *, fused: bool = True) -> float:
    """Queries times keys and weights times values, all heads and layers."""
    whole = 4.0 * decoder.heads * decoder.head_dim * squares * decoder.layers
    return whole / 2 if fused else whole


def language(decoder: Decoder, load: Load, *, fused: bool = True) -> float:
    """A forward pass of the language model without its head."""
    return 2.0 * decoder.linear * load.tokens + attention(decoder, load.squares, fused=fused)


def head(decoder: Decoder, positions: float) -> float:
    """Logits at `positions` positions."""
    return 2.0 * decoder.width * decoder.vocabulary * positions


def tower(shape: Tower, images: float) -> float:
    """A forward pass of the vision tower, all layers; its attention has no mask."""
    blocks = 2.0 * shape.linear * shape.tokens + 4.0 * shape.tokens**2 * shape.width * shape.layers
    deep = 2.0 * shape.deep * shape.patches / shape.merged
    return images * (blocks + deep + _patches(shape))


def projector(shape: Shape, images: float, *, trained: bool = False) -> float:
    """The projector over an image's tokens; trained, its first input needs no gradient."""
    steps = [2.0 * a * b for a, b in zip(shape.projector, shape.projector[1:], strict=False)]
    passes = 3 * sum(steps) - steps[0] if trained else sum(steps)
    return images * shape.image_tokens * passes


def forward(shape: Shape, load: Load, *, towers: float, fused: bool = True) -> float:
    """A whole forward pass with logits at `load.answers`; the tower runs over `towers` images."""
    return (
        tower(shape.tower, towers * shape.tiles)
        + projector(shape, load.images)
        + language(shape.decoder, load, fused=fused)
        + head(shape.decoder, load.answers)
    )


def fit(
    shape: Shape,
    load: Load,
    *,
    towers: float,
    rank: int | Adapters | None = None,
    checkpointing: float = 0.0,
    fused: bool = True,
    microbatches: float = 0.0,
) -> float:
    """A training pass over `load`: projector and language model in full, or LoRA.

    In full every matrix is used three times: forward, for the gradient of its input and for its
    own. Frozen under LoRA it is used twice, and the two thin matrices three times.
    `checkpointing` runs that share of the language model's blocks forward once more, up to the last
    number that the backward pass needs: without LoRA that is the input of the last matrix.

    Args:
        rank: of LoRA on every layer, or LoRA in numbers; None: trained in full.
        microbatches: of the pass, for what DoRA computes once in each.
    """
    decoder = shape.decoder
    passes = 3 if rank is None else 2
    recomputed_layers = math.ceil(checkpointing * decoder.layers)
    again = recomputed_layers / decoder.layers
    linear = (passes + again) * 2.0 * decoder.linear * load.tokens
    if rank is None:
        linear -= 2.0 * recomputed_layers * decoder.feed_forward * decoder.width * load.tokens
    lora = adapters_of(decoder, rank)
    thin = 0.0 if lora is None else lora.flops(load.tokens, microbatches, again=again)
    backward = 2.5 if fused else 2.0
    attended = (1 + again + backward) * attention(decoder, load.squares, fused=fused)
    return (
        tower(shape.tower, towers * shape.tiles)
        + projector(shape, load.images, trained=lora is None or lora.connector)
        + linear
        + thin
        + attended
        + passes * head(decoder, load.answers)
    )


def two_towers(
    vision: Tower, text: Tower, *, pictures: float, batch: int, vocabulary: int
) -> float:
    """Training a small CLIP and a head over tokens; pixels need no gradient."""
    both = 3 * (tower(vision, pictures) + tower(text, pictures)) - pictures * _patches(vision)
    projection_flops = (
        2.0 * 2 * vision.width**2 + 2.0 * batch * vision.width + 2.0 * vision.width * vocabulary
    )
    return both + 3 * pictures * projection_flops


def scan(decoder: Decoder, load: Load, *, fused: bool = True) -> float:
    """Attention of text rows to the image under one set of weights, the language model's part.

    The forward pass, and the logits of the text tokens to all keys, as the normaliser is exact; no
    head, and nothing after the queries, keys and values of the last layer.
    """
    metric = 2.0 * decoder.heads * decoder.head_dim * load.cross * decoder.layers
    after_values = 2.0 * sum(a * b for a, b in decoder.matrices[3:]) * load.tokens
    unused_flops = after_values + attention(decoder, load.squares, fused=fused) / decoder.layers
    return language(decoder, load, fused=fused) - unused_flops + metric


def spectra(rows: Float[np.ndarray, " matrices"], columns: int) -> float:
    """Singular values through the smaller Gram matrix: forming it, and its eigenvalues (4/3 m³)."""
    small = np.minimum(rows, columns).astype(float)
    return float((2.0 * rows * columns * small + 4 / 3 * small**3).sum())


def kmeans(points: float, k: int, features: int, iterations: int) -> float:
    """Lloyd's k-means and the last assignment: a distance for every point, centroid, iteration."""
    return 2.0 * points * k * features * (iterations + 1)


def prefill(shape: Shape, load: Load, *, towers: float, fused: bool = True) -> float:
    """Prompts up to their first answer token; the tower runs over `towers` images."""
    return forward(shape, dataclasses.replace(load, answers=load.rows), towers=towers, fused=fused)


def decoding(decoder: Decoder, load: Load, *, new: float) -> float:
    """`new` decode steps after every prompt, each over the KV cache of the prompt."""
    over_cache = 4.0 * decoder.heads * decoder.head_dim * decoder.layers * load.tokens * new
    new_tokens = load.rows * new
    return 2.0 * decoder.linear * new_tokens + head(decoder, new_tokens) + over_cache


def generation(shape: Shape, load: Load, *, towers: float, new: float, fused: bool = True) -> float:
    """Greedy answers of `new` tokens: prefill of the prompts, then decode steps over the KV cache.

    The tower runs over `towers` images, which `load.images` prompts share.
    """
    return prefill(shape, load, towers=towers, fused=fused) + decoding(shape.decoder, load, new=new)


def _patches(shape: Tower) -> float:
    return 2.0 * 3 * shape.patch**2 * shape.width * shape.patches
