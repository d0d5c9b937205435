"""LLaVA: one square tile an image, a constant number of tokens, an MLP between the two models."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xmas.data.images import FILE, SquareImages
from xmas.models.chat.layout import Fixed, Layout, literal_of


class Llava:
    """`LlavaForConditionalGeneration`, with whatever tower and language model it was built of."""

    tower = "model.vision_tower"
    language = "model.language_model"
    connector = ("multi_modal_projector",)

    def features(
        self,
        model: Any,
        pixels: Float[Tensor, "tiles 3 height width"],
        sizes: Int[Tensor, "images 2"] | None = None,
    ) -> Float[Tensor, "tiles patches channels"]:
        return tower_layers(model, pixels)

    def project(
        self,
        model: Any,
        features: Float[Tensor, "tiles patches channels"],
        sizes: Int[Tensor, "images 2"] | None,
    ) -> Float[Tensor, "tokens hidden"]:
        return model.model.multi_modal_projector(features).flatten(0, 1)

    def processor(
        self, folder: Path, changes: Mapping[str, Any] = MappingProxyType({})
    ) -> SquareImages:
        """Raises ValueError: nothing says whether its images are padded or cropped."""
        if not (folder / FILE).exists():
            raise ValueError(
                f"{folder} has no {FILE}: a LLaVA's own files do not say how it was trained to see "
                "images; assemble it (xmas.models.assembled), or write size and aspect there"
            )
        held = json.loads((folder / FILE).read_text()) | dict(changes)
        return SquareImages(held["size"], held["aspect"])

    def layout(self, config: Any, processor: Any, tokenizer: Any) -> Layout:
        literal = literal_of(tokenizer, config.image_token_id)
        return Fixed(config.image_seq_length, literal)


def tower_layers(
    model: Any, pixels: Float[Tensor, "tiles 3 height width"]
) -> Float[Tensor, "tiles patches channels"]:
    """The tower's configured layer, or several side by side; without the class token, if any."""
    config = model.config
    layers = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    wanted = config.vision_feature_layer
    first = 1 if config.vision_feature_select_strategy == "default" else 0
    if isinstance(wanted, int):
        return layers[wanted][:, first:]
    return torch.cat([layers[each][:, first:] for each in wanted], dim=-1)
