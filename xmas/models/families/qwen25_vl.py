"""Qwen2.5-VL: a picture at about its own size, its patches in windows, positions in three axes.

Four neighbouring patches are merged to a token. The language model takes three positions a token
(M-RoPE): time, and an image's rows and columns, which the caller passes as `position_ids`.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from xmas.models.chat.layout import FEATURE, literal_of
from xmas.models.families.protocol import Configs
from xmas.models.shape import Decoder, Shape, Tower


def qwen25_vl_3b() -> Any:
    """A tower of windows at the pictures' own sizes and a Qwen2.5-3B, whose head is its embedding.

    Source: Qwen/Qwen2.5-VL-3B-Instruct.
    """
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "tokens_per_second": 2,
        },
        tie_word_embeddings=True,
    )


class Qwen25Vl:
    """`Qwen2_5_VLForConditionalGeneration`; what trains of its tower is the merger alone."""

    model_type = "qwen2_5_vl"
    tower = "model.visual"
    language = "model.language_model"
    connector = ("merger",)
    full_size: ClassVar[Configs] = {"qwen25_vl_3b": qwen25_vl_3b}
    hub_configs: ClassVar[Configs] = {"Qwen/Qwen2.5-VL-3B-Instruct": qwen25_vl_3b}

    def features(
        self,
        model: Any,
        pixels: Float[Tensor, "patches numbers"],
        sizes: Int[Tensor, "images 2"] | None = None,
    ) -> Float[Tensor, "patches one channels"]:
        """In the order of the tower's windows, image after image."""
        grid = _grid(model.config, sizes)
        ones = torch.ones_like(grid[:, :1])
        outputs = model.model.visual(pixels, grid_thw=torch.cat([ones, grid], dim=1))
        return outputs.last_hidden_state[:, None]

    def project(
        self,
        model: Any,
        features: Float[Tensor, "patches one channels"],
        sizes: Int[Tensor, "images 2"] | None,
    ) -> Float[Tensor, "tokens hidden"]:
        patch_features = model.model.visual.merger(features[:, 0])
        vision = model.config.vision_config
        side = vision.window_size // vision.patch_size // vision.spatial_merge_size
        order = window_order(_merged(model.config, sizes), side)
        return patch_features[torch.from_numpy(np.argsort(order)).to(patch_features.device)]

    def positions(
        self,
        config: Any,
        ids: Int[Tensor, "rows length"],
        mask: Bool[Tensor, "rows length"],
        sizes: Int[Tensor, "images 2"] | None,
    ) -> Int[Tensor, "3 rows length"]:
        """Of every token in time, row and column; text counts on from the longer side of an image.

        Source: Qwen2-VL (arXiv 2409.12191), section 2.1; `Qwen2_5_VLModel.get_rope_index`.
        """
        plain = (mask.long().cumsum(dim=1) - 1).clamp_min(0)
        axes = plain[None].repeat(3, 1, 1)
        spots = ids == config.image_token_id
        with_image = spots.any(dim=1).nonzero().flatten().tolist()
        if not with_image:
            return axes
        grids = _merged(config, sizes).tolist()
        for row in with_image:
            stop = 0
            while spots[row, stop:].any():
                height, width = grids.pop(0)
                first = stop + int(spots[row, stop:].int().argmax())
                block = torch.arange(height * width, device=ids.device)
                inside = torch.stack([0 * block, block // width, block % width])
                stop = first + height * width
                start = axes[0, row, first].clone()
                axes[:, row, stop:] += max(height, width) - height * width
                axes[:, row, first:stop] = start + inside
        return axes

    def processor(
        self, folder: Path, changes: Mapping[str, Any] = MappingProxyType({})
    ) -> "NativeImages":
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil,
        )

        return NativeImages(
            Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True, **changes)
        )

    def layout(self, config: Any, processor: "NativeImages", tokenizer: Any) -> "Native":
        """Raises ValueError: image processor and tower disagree about patches."""
        vision, own = config.vision_config, processor.own
        if (own.patch_size, own.merge_size) != (vision.patch_size, vision.spatial_merge_size):
            raise ValueError(
                f"the image processor makes patches of {own.patch_size} pixels and merges "
                f"{own.merge_size}, the tower {vision.patch_size} and {vision.spatial_merge_size}: "
                "preprocessor_config.json and config.json have to agree"
            )
        marks = (config.vision_start_token_id, config.vision_end_token_id)
        return Native(own, marks, literal_of(tokenizer, config.image_token_id))

    def shape(self, config: Any, *, image_tokens: int | None = None, tiles: float = 1.0) -> Shape:
        """By default of images of 640 x 480 pixels. The tower's gated layers (three matrices) count
        as plain ones (two) of one and a half times the width.
        """
        vision, merge = config.vision_config, config.vision_config.spatial_merge_size
        pixels = vision.patch_size * merge
        tokens = image_tokens or round(640 / pixels) * round(480 / pixels)
        tower = Tower(
            layers=vision.depth,
            width=vision.hidden_size,
            feed_forward=3 * vision.intermediate_size // 2,
            patches=tokens * merge**2,
            patch=vision.patch_size,
            class_token=False,
        )
        decoder, inner = Decoder.of(config.text_config), vision.hidden_size * merge**2
        decoder = dataclasses.replace(decoder, tied=bool(config.tie_word_embeddings))
        return Shape(decoder, tower, (inner, inner, decoder.width), tokens)


class NativeImages:
    """Qwen2-VL's own image processor; `sizes` are those that pictures were resized to."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def pictures(self, images: list[Image.Image]) -> dict[str, Tensor]:
        inputs = self.own([image.convert("RGB") for image in images], return_tensors="pt")
        sizes = inputs["image_grid_thw"][:, 1:] * self.own.patch_size
        return {"pixels": inputs["pixel_values"], "sizes": sizes}

    def save(self, folder: Path) -> None:
        self.own.save_pretrained(folder)


@dataclasses.dataclass(frozen=True)
class Native:
    """A mark, the tokens of the resized picture, another mark."""

    own: Any  # the image processor, which says how pictures are resized
    marks: tuple[int, int]
    literal: str | None
    by_size: bool = dataclasses.field(default=True, init=False)

    def tokens(self, size: tuple[int, int] | None) -> Int[np.ndarray, " image"]:
        """Raises ValueError: the picture is more than 200 times as long as it is wide."""
        if size is None:
            raise ValueError("the number of Qwen2.5-VL's tokens follows from an image's size")
        patches = self.own.get_number_of_image_patches(*size)
        count = patches // self.own.merge_size**2
        first, last = self.marks
        return np.array([first, *[FEATURE] * count, last], dtype=np.int32)


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


def _grid(config: Any, sizes: Int[Tensor, "images 2"] | None) -> Int[Tensor, "images 2"]:
    """Lines and columns of patches."""
    if sizes is None:
        raise ValueError("the patches of Qwen2.5-VL need the images' sizes")
    return sizes // config.vision_config.patch_size


def _merged(config: Any, sizes: Int[Tensor, "images 2"] | None) -> Int[Tensor, "images 2"]:
    """Lines and columns of tokens."""
    return _grid(config, sizes) // config.vision_config.spatial_merge_size


FAMILIES = (Qwen25Vl(),)
