"""LLaVA-OneVision: the whole image as one tile, and its best fit on a grid of tiles ("anyres").

The grid's tiles are joined to one map of features, the padding is cut off, a map that is too large
is interpolated, and a learned newline ends every line of it. An image of a row with several is one
tile and a newline.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution

from xmas.models.chat.layout import FEATURE, literal_of
from xmas.models.families.llava import tower_layers
from xmas.models.families.protocol import Configs
from xmas.models.shape import Shape

ONE_TILE = (0, 0)  # in place of the size of an image that is not cut into tiles


def llava_onevision_05b() -> Any:
    """SigLIP-SO400M without its last layer and head, Qwen2-0.5B, up to nine tiles' features.

    Source: llava-hf/llava-onevision-qwen2-0.5b-ov-hf; grids and aspect are transformers' defaults.
    """
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    return LlavaOnevisionConfig(
        text_config=Qwen2Config(
            vocab_size=152000,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            max_position_embeddings=32768,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            tie_word_embeddings=True,
            bos_token_id=151643,
            eos_token_id=151645,
        ),
        vision_config=SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=26,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
            vision_use_head=False,
        ),
        image_token_index=151646,
        tie_word_embeddings=True,
    )


class Onevision:
    """`LlavaOnevisionForConditionalGeneration`: SigLIP's tower and a Qwen2."""

    model_type = "llava_onevision"
    tower = "model.vision_tower"
    language = "model.language_model"
    connector = ("multi_modal_projector", "image_newline")
    full_size: ClassVar[Configs] = {"llava_onevision_05b": llava_onevision_05b}
    hub_configs: ClassVar[Configs] = {
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": llava_onevision_05b
    }

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
        if sizes is None:
            raise ValueError("the tiles of LLaVA-OneVision need the images' sizes")
        layout = anyres(model.config)
        size_pairs = [(height, width) for height, width in sizes.tolist()]
        counts = [
            1 if size == ONE_TILE else 1 + math.prod(layout.grid(size)) for size in size_pairs
        ]
        packed, _ = model.model.pack_image_features(
            model.model.multi_modal_projector(features).split(counts),
            size_pairs,
            image_newline=model.model.image_newline,
            vision_aspect_ratio=model.config.vision_aspect_ratio,
        )
        return torch.cat(packed)

    def processor(
        self, folder: Path, changes: Mapping[str, Any] = MappingProxyType({})
    ) -> "AnyresImages":
        from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
            LlavaOnevisionImageProcessorPil,
        )

        return AnyresImages(
            LlavaOnevisionImageProcessorPil.from_pretrained(
                folder, local_files_only=True, **changes
            )
        )

    def layout(self, config: Any, processor: "AnyresImages", tokenizer: Any) -> "Anyres":
        """Raises ValueError: model and image processor disagree about tiles."""
        layout = anyres(config, literal_of(tokenizer, config.image_token_id))
        if processor.tiles() != (layout.tile, layout.pinpoints):
            raise ValueError(
                f"the image processor cuts {processor.tiles()}, the model expects "
                f"{(layout.tile, layout.pinpoints)}: size and image_grid_pinpoints of "
                "preprocessor_config.json and config.json have to agree"
            )
        return layout

    def shape(self, config: Any, *, image_tokens: int | None = None, tiles: float = 1.0) -> Shape:
        return Shape.of(config, image_tokens=image_tokens, tiles=tiles)


class AnyresImages:
    """LLaVA-OneVision's own image processor, its tiles not padded to those of other images."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def pictures(self, images: list[Image.Image]) -> dict[str, Tensor]:
        inputs = self.own([image.convert("RGB") for image in images], do_pad=False)
        return {
            "pixels": torch.from_numpy(np.concatenate(inputs["pixel_values"])),
            "sizes": torch.tensor([(image.height, image.width) for image in images]),
        }

    def pictures_of_row(self, images: list[Image.Image]) -> dict[str, Tensor]:
        """Each image as its only tile, padded to a square with the mean colour."""
        colour = tuple(int(255 * mean) for mean in self.own.image_mean)
        squares = [
            self.own.pad_to_square(np.array(image.convert("RGB")).transpose(2, 0, 1), colour)
            for image in images
        ]
        one_tile = [[self.own.size["height"], self.own.size["width"]]]
        inputs = self.own(squares, image_grid_pinpoints=one_tile, do_pad=False)
        tiles = np.stack([tiles[0] for tiles in inputs["pixel_values"]])
        return {"pixels": torch.from_numpy(tiles), "sizes": torch.tensor([ONE_TILE] * len(images))}

    def save(self, folder: Path) -> None:
        self.own.save_pretrained(folder)

    def tiles(self) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Side of a tile and heights and widths of the grids, pixels."""
        return self.own.size["height"], _pairs(self.own.image_grid_pinpoints)


@dataclasses.dataclass(frozen=True)
class Anyres:
    """The tokens of an image: those of the whole, then the lines of its map with newlines."""

    tile: int  # pixels
    side: int  # features on a side of a tile
    most: int  # tiles' worth of features, before a map is interpolated
    pinpoints: tuple[tuple[int, int], ...]  # heights and widths of grids, pixels
    literal: str | None
    by_size: bool = dataclasses.field(default=True, init=False)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tiles: the pinpoint that keeps most pixels and wastes least."""
        height, width = select_best_resolution(size, list(self.pinpoints))
        return height // self.tile, width // self.tile

    def tokens(self, size: tuple[int, int] | None) -> Int[np.ndarray, " image"]:
        if size is None:
            raise ValueError("the number of LLaVA-OneVision's tokens follows from an image's size")
        lines, columns = self._map(size)
        return np.full(self.side**2 + lines * (columns + 1), FEATURE, dtype=np.int32)

    def tokens_of_several(self) -> Int[np.ndarray, " image"]:
        """The whole image, and a newline at its end."""
        return np.full(self.side**2 + 1, FEATURE, dtype=np.int32)

    def _map(self, size: tuple[int, int]) -> tuple[int, int]:
        """Lines and columns of the map, without newlines: `LlavaOnevisionModel`'s arithmetic."""
        height, width = size
        rows, columns = (count * self.side for count in self.grid(size))
        if width / height > columns / rows:
            rows -= 2 * ((rows - int(round(height * (columns / width), 7))) // 2)
        else:
            columns -= 2 * ((columns - int(round(width * (rows / height), 7))) // 2)
        shrink = math.sqrt(rows * columns / (self.most * self.side**2))
        return (int(rows // shrink), int(columns // shrink)) if shrink > 1.1 else (rows, columns)


def anyres(config: Any, literal: str | None = None) -> Anyres:
    vision = config.vision_config
    return Anyres(
        literal=literal,
        tile=vision.image_size,
        side=vision.image_size // vision.patch_size,
        most=int(config.vision_aspect_ratio.removeprefix("anyres_max_")),
        pinpoints=_pairs(config.image_grid_pinpoints),
    )


def _pairs(listed: list[list[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((height, width) for height, width in listed)


FAMILIES = (Onevision(),)
