"""What Qwen2-VL, Qwen2.5-VL and Qwen3-VL have in common: pictures at about their own size, M-RoPE.

Four neighbouring patches are merged to a token. The language model takes three positions a token:
time, and an image's rows and columns, which the caller passes as `position_ids`.
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
from transformers.vision_utils import get_vision_position_ids

from xmas.models.chat.layout import FEATURE, literal_of
from xmas.models.shape import Decoder, Shape, Tower


class QwenVl:
    """The methods that its families share; what trains of the tower is the merger alone.

    Source: `set_model` of QwenLM/Qwen3-VL, qwen-vl-finetune/qwenvl/train/train_qwen.py: with
    `tune_mm_mlp` and without `tune_mm_vision`, `visual.merger` is trained, and nothing else of
    `visual`.
    """

    tower = "model.visual"
    language = "model.language_model"
    connector = ("merger",)
    marks: ClassVar[Mapping[str, str]] = {
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
    }
    hub_class: ClassVar[str]  # of transformers' processor

    def run_tower(
        self,
        model: Any,
        pixels: Float[Tensor, "patches numbers"],
        sizes: Int[Tensor, "images 2"] | None,
    ) -> Any:
        """Outputs of transformers' tower.

        What follows from the sizes is computed on the host and copied, or every layer would wait
        for the device to be told where an image ends.
        """
        tower = model.model.visual
        grid = torch.nn.functional.pad(patch_grid(model.config, sizes), (1, 0), value=1)
        if "flash" in (tower.config._attn_implementation or ""):  # its kernel takes all of it
            return tower(pixels, grid_thw=grid.to(pixels.device))
        grid = grid.cpu()
        indices = {
            name: tensor.to(pixels.device, non_blocking=True)
            for name, tensor in self.indices(tower, grid).items()
        }
        return tower(pixels, grid_thw=grid, **indices, **self.ends(tower, grid))

    def indices(self, tower: Any, grid: Int[Tensor, "images 3"]) -> dict[str, Tensor]:
        """Arguments of the tower that are on its device."""
        return {"position_ids": get_vision_position_ids(grid, tower.spatial_merge_size)}

    def ends(self, tower: Any, grid: Int[Tensor, "images 3"]) -> dict[str, Tensor]:
        """Arguments of the tower that its attention reads on the host, but for the images' ends."""
        return {}

    def features(
        self,
        model: Any,
        pixels: Float[Tensor, "patches numbers"],
        sizes: Int[Tensor, "images 2"] | None = None,
    ) -> Float[Tensor, "patches one channels"]:
        """In the tower's order of patches, image after image."""
        return self.run_tower(model, pixels, sizes).last_hidden_state[:, None]

    def project(
        self,
        model: Any,
        features: Float[Tensor, "patches one channels"],
        sizes: Int[Tensor, "images 2"] | None,
    ) -> Float[Tensor, "tokens hidden"]:
        return model.model.visual.merger(features[:, 0])

    def positions(
        self,
        config: Any,
        ids: Int[Tensor, "rows length"],
        counted: Int[Tensor, "rows length"],
        sizes: Int[Tensor, "images 2"] | None,
    ) -> Int[Tensor, "3 rows length"]:
        if sizes is None:
            return counted.expand(3, *counted.shape)
        return mrope(ids == config.image_token_id, counted, token_grid(config, sizes))

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

    def shape_around(
        self, config: Any, tower: Tower, *, image_tokens: int | None, deep: int = 0
    ) -> Shape:
        """By default of images of 640 x 480 pixels.

        Args:
            tower: but for its patches, which follow from the number of tokens.
            deep: connectors of inner layers, which are part of the frozen tower.
        """
        vision, merge = config.vision_config, config.vision_config.spatial_merge_size
        pixels = vision.patch_size * merge
        tokens = image_tokens or round(640 / pixels) * round(480 / pixels)
        decoder, inner = Decoder.of(config.text_config), tower.width * merge**2
        decoder = dataclasses.replace(decoder, tied=bool(config.tie_word_embeddings))
        projector = (inner, inner, decoder.width)
        tower = dataclasses.replace(
            tower,
            patches=tokens * merge**2,
            deep=deep * inner * (inner + decoder.width),
            merged=merge**2,
        )
        return Shape(decoder, tower, projector, tokens)

    def chat_image(self, image: str) -> str:
        return self.marks["vision_start_token_id"] + image + self.marks["vision_end_token_id"]

    def hub_processor(
        self, config: Any, processor: "NativeImages", tokenizer: Any, image: str
    ) -> Any:
        """transformers' own, of images and texts alone: its part for videos needs torchvision."""
        import transformers
        from transformers.processing_utils import ProcessorMixin

        theirs = getattr(transformers, self.hub_class)

        class OfImages(theirs):
            def __init__(self, image_processor: Any, tokenizer: Any) -> None:
                ProcessorMixin.__init__(self, image_processor, tokenizer)

        OfImages.__name__ = self.hub_class  # what its folder says to load
        images = OfImages(processor.own, tokenizer)
        images.image_token, images.image_token_id = image, config.image_token_id
        images.video_token = self.marks["video_token_id"]
        images.video_token_id = config.video_token_id
        return images


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
            raise ValueError("the number of an image's tokens follows from its size")
        patches = self.own.get_number_of_image_patches(*size)
        count = patches // self.own.merge_size**2
        first, last = self.marks
        return np.array([first, *[FEATURE] * count, last], dtype=np.int32)


def patch_grid(config: Any, sizes: Int[Tensor, "images 2"] | None) -> Int[Tensor, "images 2"]:
    """Lines and columns of patches. Raises ValueError: without sizes."""
    if sizes is None:
        raise ValueError(f"the patches of a {config.model_type} need the images' sizes")
    return sizes // config.vision_config.patch_size


def token_grid(config: Any, sizes: Int[Tensor, "images 2"] | None) -> Int[Tensor, "images 2"]:
    """Lines and columns of tokens."""
    return patch_grid(config, sizes) // config.vision_config.spatial_merge_size


def mrope(
    is_image: Bool[Tensor, "rows length"],
    counted: Int[Tensor, "rows length"],
    grids: Int[Tensor, "images 2"],
) -> Int[Tensor, "3 rows length"]:
    """Positions of every token in time, row and column; text counts on from the longer side of an
    image.

    Nothing waits for the device: an image is a run of image tokens, which marks end.
    Source: Qwen2-VL (arXiv 2409.12191), section 2.1; `Qwen2_5_VLModel.get_rope_index`.

    Args:
        is_image: tokens of images, the images in the order of the rows.
        counted: the number of tokens before each in its row, of which a line may have several.
        grids: lines and columns of tokens of every image.
    """
    place = torch.arange(is_image.shape[1], device=is_image.device).expand_as(is_image)
    starts = is_image & ~torch.nn.functional.pad(is_image[:, :-1], (1, 0))
    number = starts.flatten().cumsum(0).view_as(place) - 1
    height, width = grids[number.clamp_min(0)].unbind(-1)
    inside = place - torch.where(starts, place, 0).cummax(dim=1).values
    change = torch.maximum(height, width) - height * width  # what an image moves later text by
    moved = (starts * change).cumsum(dim=1)
    earlier = (moved - starts * change).gather(1, place - counted)  # by images of earlier rows
    text = counted + moved - earlier
    corner = text - change - inside
    image = torch.stack([corner, corner + inside // width, corner + inside % width])
    return torch.where(is_image, image, text)
