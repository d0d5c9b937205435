"""A model in numbers, counted on the built model: where nobody described its configuration."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from xmas.models.shape import Decoder, Shape, Tower


def counted_shape(
    model: PreTrainedModel, language: str, tower: str, connector: Sequence[str]
) -> Shape:
    """The shape of a model without tiles, its image of 640 x 480 pixels or of the tower's size.

    Weights that all tokens are multiplied with are those of the blocks. A mixture of experts counts
    as if all of them ran.

    Args:
        language, tower, connector: where these are, as in `Parts`.
    """
    config: Any = model.config
    text, vision = config.get_text_config(), config.vision_config
    layers: Any = model.get_submodule(language).layers
    embedding: Any = model.get_input_embeddings().weight
    head: Any = model.get_output_embeddings()
    heads = text.num_attention_heads
    decoder = Decoder(
        layers=len(layers),
        width=text.hidden_size,
        heads=heads,
        groups=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        feed_forward=0,
        vocabulary=embedding.shape[0],
        tied=head.weight is embedding,
    )
    other = _matrices(layers) - decoder.linear
    decoder = dataclasses.replace(
        decoder, feed_forward=max(0, round(other / decoder.layers / 3 / decoder.width))
    )
    blocks = max(_lists(model.get_submodule(tower)), key=len)
    width = getattr(vision, "hidden_size", None) or vision.embed_dim
    patch = _side(getattr(vision, "patch_size", 14))
    side = getattr(vision, "image_size", None)
    patches = (_side(side) // patch) ** 2 if side else (640 // patch) * (480 // patch)
    inner = _matrices(blocks) / len(blocks) - 4 * width**2
    seeing = Tower(len(blocks), width, max(0, round(inner / 2 / width)), patches, patch, False)
    between = sum(
        weight.numel()
        for name, weight in model.named_parameters()
        if any(f".{part}." in f".{name}." for part in connector)
    )
    projector = (max(1, round(between / decoder.width) - 1), decoder.width)
    count = sum(weight.numel() for weight in {id(one): one for one in model.parameters()}.values())
    return Shape(decoder, seeing, projector, patches, counted=count, whole=True)


def _matrices(blocks: nn.ModuleList) -> int:
    return sum(weight.numel() for weight in blocks.parameters() if weight.dim() > 1)


def _lists(tower: nn.Module) -> list[nn.ModuleList]:
    """The lists of modules in a tower; one of them is its blocks."""
    lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
    return lists or [nn.ModuleList([tower])]


def _side(pixels: Any) -> int:
    """A side in pixels, which some configurations give as a pair."""
    return pixels if isinstance(pixels, int) else int(pixels[0])
