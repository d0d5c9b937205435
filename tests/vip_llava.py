"""ViP-LLaVA: a LLaVA whose connector sees several of the tower's layers, concatenated.

The whole of a new family: this file in `xmas/models/families`, or named by a package's entry point.
"""

import dataclasses
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xmas.models.families.llava import Llava
from xmas.models.families.protocol import Configs
from xmas.models.shape import Shape


class VipLlava(Llava):
    """`VipLlavaForConditionalGeneration`; tokens, images, names and export are LLaVA's.

    Source: ViP-LLaVA (arXiv 2312.00784), section 3.2; llava-hf/vip-llava-7b-hf.
    """

    model_type = "vipllava"
    full_size: ClassVar[Configs] = {}
    hub_configs: ClassVar[Configs] = {}

    def features(
        self,
        model: Any,
        pixels: Float[Tensor, "tiles 3 height width"],
        sizes: Int[Tensor, "images 2"] | None = None,
    ) -> Float[Tensor, "tiles patches channels"]:
        layers = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        chosen = [layers[layer][:, 1:] for layer in model.config.vision_feature_layer]
        return torch.cat(chosen, dim=-1)

    def shape(self, config: Any, *, image_tokens: int | None = None, tiles: float = 1.0) -> Shape:
        shape = super().shape(config, image_tokens=image_tokens, tiles=tiles)
        width = shape.tower.width * len(config.vision_feature_layer)
        return dataclasses.replace(shape, projector=(width, *shape.projector[1:]))


FAMILIES = (VipLlava(),)
