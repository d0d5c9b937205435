"""Qwen2-VL: pictures and positions as in `qwen_vl`."""

from collections.abc import Mapping
from typing import Any, ClassVar

from xmas.models.families.protocol import Configs
from xmas.models.families.qwen_vl import QwenVl
from xmas.models.shape import Shape, Tower


def qwen2_vl_2b() -> Any:
    """A tower of 675 M parameters and a Qwen2-1.5B. Source: Qwen/Qwen2-VL-2B-Instruct."""
    return _config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )


def qwen2_vl_7b() -> Any:
    """The same tower and a Qwen2-7B, its head untied. Source: Qwen/Qwen2-VL-7B-Instruct."""
    return _config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    )


def _config(**text: Any) -> Any:
    """What differs between the sizes is in the language model."""
    from transformers import Qwen2VLConfig

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    more = {"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_parameters": rope}
    vision = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "hidden_size": text["hidden_size"]}
    return Qwen2VLConfig(
        text_config=text | more,
        vision_config=vision,
        tie_word_embeddings=text["tie_word_embeddings"],
    )


class Qwen2Vl(QwenVl):
    """`Qwen2VLForConditionalGeneration`."""

    model_type = "qwen2_vl"
    hub_class = "Qwen2VLProcessor"
    video_processor: ClassVar[str] = "Qwen2VLVideoProcessor"
    hub_names: ClassVar[Mapping[str, str]] = {
        "model.visual.": "visual.",
        "model.language_model.": "model.",
        "lm_head.": "lm_head.",
    }
    full_size: ClassVar[Configs] = {"qwen2_vl_2b": qwen2_vl_2b, "qwen2_vl_7b": qwen2_vl_7b}
    hub_configs: ClassVar[Configs] = {
        "Qwen/Qwen2-VL-2B-Instruct": qwen2_vl_2b,
        "Qwen/Qwen2-VL-7B-Instruct": qwen2_vl_7b,
    }

    def shape(self, config: Any, *, image_tokens: int | None = None, tiles: float = 1.0) -> Shape:
        vision = config.vision_config
        feed_forward = vision.mlp_ratio * vision.embed_dim
        tower = Tower(
            vision.depth, vision.embed_dim, feed_forward, 0, vision.patch_size, class_token=False
        )
        return self.shape_around(config, tower, image_tokens=image_tokens)


FAMILIES = (Qwen2Vl(),)
