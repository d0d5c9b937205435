"""Qwen2.5-VL: pictures and positions as in `qwen_vl`, the patches in the order of windows."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from xmas.models.families.protocol import Configs
from xmas.models.families.qwen_vl import QwenVl, token_grid
from xmas.models.shape import Shape, Tower


def qwen25_vl_3b() -> Any:
    """A tower of windows at the pictures' own sizes and a Qwen2.5-3B, whose head is its embedding.

    Source: Qwen/Qwen2.5-VL-3B-Instruct.
    """
    return _config(
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=11008,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )


def qwen25_vl_7b() -> Any:
    """The same tower and a Qwen2.5-7B whose head is not its embedding.

    Source: Qwen/Qwen2.5-VL-7B-Instruct.
    """
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
    from transformers import Qwen2_5_VLConfig

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    more = {"max_position_embeddings": 128000, "rms_norm_eps": 1e-6, "rope_parameters": rope}
    return Qwen2_5_VLConfig(
        text_config=text | more,
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": text["hidden_size"],
            "tokens_per_second": 2,
        },
        tie_word_embeddings=text["tie_word_embeddings"],
    )


class Qwen25Vl(QwenVl):
    """`Qwen2_5_VLForConditionalGeneration`."""

    model_type = "qwen2_5_vl"
    hub_class = "Qwen2_5_VLProcessor"
    video_processor: ClassVar[str] = "Qwen2VLVideoProcessor"
    hub_names: ClassVar[Mapping[str, str]] = {
        "model.visual.": "visual.",
        "model.language_model.": "model.",
        "lm_head.": "lm_head.",
    }
    full_size: ClassVar[Configs] = {"qwen25_vl_3b": qwen25_vl_3b, "qwen25_vl_7b": qwen25_vl_7b}
    hub_configs: ClassVar[Configs] = {
        "Qwen/Qwen2.5-VL-3B-Instruct": qwen25_vl_3b,
        "Qwen/Qwen2.5-VL-7B-Instruct": qwen25_vl_7b,
    }

    def indices(self, tower: Any, grid: Int[Tensor, "images 3"]) -> dict[str, Tensor]:
        return super().indices(tower, grid) | {"window_index": _windows(tower, grid)[0]}

    def ends(self, tower: Any, grid: Int[Tensor, "images 3"]) -> dict[str, Tensor]:
        return {"cu_window_seqlens": _windows(tower, grid)[1]}

    def project(
        self,
        model: Any,
        features: Float[Tensor, "patches one channels"],
        sizes: Int[Tensor, "images 2"] | None,
    ) -> Float[Tensor, "tokens hidden"]:
        """The tower's order is that of its windows."""
        tokens = super().project(model, features, sizes)
        vision = model.config.vision_config
        side = vision.window_size // vision.patch_size // vision.spatial_merge_size
        order = window_order(token_grid(model.config, sizes), side)
        return tokens[torch.from_numpy(np.argsort(order)).to(tokens.device, non_blocking=True)]

    def shape(self, config: Any, *, image_tokens: int | None = None, tiles: float = 1.0) -> Shape:
        """The tower's gated layers (three matrices) count as plain ones (two) of one and a half
        times the width.
        """
        vision = config.vision_config
        feed_forward = 3 * vision.intermediate_size // 2
        tower = Tower(
            vision.depth, vision.hidden_size, feed_forward, 0, vision.patch_size, class_token=False
        )
        return self.shape_around(config, tower, image_tokens=image_tokens)


def _windows(
    tower: Any, grid: Int[Tensor, "images 3"]
) -> tuple[Int[Tensor, " tokens"], Int[Tensor, " windows_1"]]:
    """The tower's order of tokens, and the patches at which its windows end."""
    return get_vision_window_index(
        grid, tower.spatial_merge_size, tower.window_size, tower.patch_size
    )


def window_order(sizes: Int[Tensor, "images 2"], side: int) -> Int[np.ndarray, " tokens"]:
    """The tower's order of the tokens of images of `sizes` tokens: window after window of at most
    `side` by `side`, line by line within a window.
    """
    orders, before = [], 0
    for height, width in sizes.tolist():
        row, column = np.divmod(np.arange(height * width), width)
        order = np.lexsort((column, row, column // side, row // side))
        orders.append(before + order)
        before += height * width
    return np.concatenate(orders)


FAMILIES = (Qwen25Vl(),)
