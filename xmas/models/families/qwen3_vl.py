"""Qwen3-VL: pictures and positions as in `qwen_vl`; features of inner layers of its tower are added
to the first layers of its language model (DeepStack).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from xmas.models.families.protocol import Configs
from xmas.models.families.qwen_vl import QwenVl
from xmas.models.shape import Shape, Tower

_VISION_300M = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096}
_VISION_400M = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304}


def qwen3_vl_2b() -> Any:
    """A tower of 300 M parameters and a Qwen3-1.7B. Source: Qwen/Qwen3-VL-2B-Instruct."""
    return _config(
        _VISION_300M | {"deepstack_visual_indexes": [5, 11, 17]},
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=28,
        num_attention_heads=16,
        tie_word_embeddings=True,
    )


def qwen3_vl_4b() -> Any:
    """The tower of the 2B and a Qwen3-4B. Source: Qwen/Qwen3-VL-4B-Instruct."""
    return _config(
        _VISION_300M | {"deepstack_visual_indexes": [5, 11, 17]},
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        tie_word_embeddings=True,
    )


def qwen3_vl_8b() -> Any:
    """A tower of 400 M parameters and a Qwen3-8B. Source: Qwen/Qwen3-VL-8B-Instruct."""
    return _config(
        _VISION_400M | {"deepstack_visual_indexes": [8, 16, 24]},
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        tie_word_embeddings=False,
    )


def _config(vision: dict[str, Any], **text: Any) -> Any:
    """What all sizes have in common."""
    from transformers import Qwen3VLConfig

    rope = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    }
    more = {
        "vocab_size": 151936,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-6,
        "rope_parameters": rope,
    }
    return Qwen3VLConfig(
        text_config=text | more,
        vision_config=vision | {"num_heads": 16, "out_hidden_size": text["hidden_size"]},
        tie_word_embeddings=text["tie_word_embeddings"],
    )


class Qwen3Vl(QwenVl):
    """`Qwen3VLForConditionalGeneration`; the connectors of inner layers stay as they are.

    So their outputs, and not their inputs, are among the features: the tower runs once an image.
    """

    model_type = "qwen3_vl"
    hub_class = "Qwen3VLProcessor"
    video_processor: ClassVar[str] = "Qwen3VLVideoProcessor"  # or Qwen2-VL's would be inferred
    hub_names: ClassVar[Mapping[str, str]] = {"model.": "model.", "lm_head.": "lm_head."}
    full_size: ClassVar[Configs] = {
        "qwen3_vl_2b": qwen3_vl_2b,
        "qwen3_vl_4b": qwen3_vl_4b,
        "qwen3_vl_8b": qwen3_vl_8b,
    }
    hub_configs: ClassVar[Configs] = {
        "Qwen/Qwen3-VL-2B-Instruct": qwen3_vl_2b,
        "Qwen/Qwen3-VL-4B-Instruct": qwen3_vl_4b,
        "Qwen/Qwen3-VL-8B-Instruct": qwen3_vl_8b,
    }

    def indices(self, tower: Any, grid: Int[Tensor, "images 3"]) -> dict[str, Tensor]:
        places, weights = get_vision_interpolation_indices_and_weights(
            grid,
            tower.num_grid_per_side,
            tower.interpolation_mode,
            tower.interpolation_align_corners,
            tower.spatial_merge_size,
        )
        return super().indices(tower, grid) | {"interp_indices": places, "interp_weights": weights}

    def features(
        self,
        model: Any,
        pixels: Float[Tensor, "patches numbers"],
        sizes: Int[Tensor, "images 2"] | None = None,
    ) -> Float[Tensor, "patches one channels"]:
        """The last layer's features, then a part of what inner layers add to the patch's token:
        that is divided among the four patches of the token.
        """
        outputs = self.run_tower(model, pixels, sizes)
        last = outputs.last_hidden_state
        deep = torch.cat(outputs.deepstack_features, dim=-1).view(len(last), -1)
        return torch.cat([last, deep], dim=-1)[:, None]

    def project(
        self,
        model: Any,
        features: Float[Tensor, "patches one channels"],
        sizes: Int[Tensor, "images 2"] | None,
    ) -> Float[Tensor, "tokens hidden"]:
        return model.model.visual.merger(features[:, 0, : model.config.vision_config.hidden_size])

    def deep_features(
        self, model: Any, features: Float[Tensor, "patches one channels"]
    ) -> list[Float[Tensor, "tokens hidden"]]:
        vision = model.config.vision_config
        deep = features[:, 0, vision.hidden_size :]
        tokens = len(features) // vision.spatial_merge_size**2
        return list(deep.reshape(tokens, -1).split(vision.out_hidden_size, dim=-1))

    def shape(self, config: Any, *, image_tokens: int | None = None, tiles: float = 1.0) -> Shape:
        vision = config.vision_config
        tower = Tower(
            vision.depth,
            vision.hidden_size,
            vision.intermediate_size,
            0,
            vision.patch_size,
            class_token=False,
        )
        deep = len(vision.deepstack_visual_indexes)
        return self.shape_around(config, tower, image_tokens=image_tokens, deep=deep)


FAMILIES = (Qwen3Vl(),)
