"""Peak memory of a scan or a generation in bytes, from a model's shape.

That of a fit is in `xmas.training.fit.memory`, since fits go by it too.
"""

from xmas.attention.engine import UNSOLVED_BYTES
from xmas.attention.shares import BLOCK_BYTES
from xmas.models.shape import Decoder, Shape
from xmas.training.fit.memory import block

PROCESS = 0.8e9  # Python with torch, transformers and lightning imported, measured: 0.7 GB


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
