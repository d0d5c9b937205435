"""LLaVA-1.6: the whole image as one tile, and its best fit on a grid of tiles ("anyres").

The grid's tiles are joined to one map of features, the padding is cut off, and a learned newline
ends every line of it. LLaVA-OneVision is the same with a limit to the map.
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
from xmas.models.families.llava import Llava, llava15_7b, tower_layers
from xmas.models.families.protocol import Configs
from xmas.models.shape import Shape

Grids = tuple[tuple[int, int], ...]  # heights and widths, pixels


def llava16_7b() -> Any:
    """The halves of LLaVA-1.5-7B, five grids of up to four tiles.

    Source: llava-hf/llava-v1.6-vicuna-7b-hf; grids are transformers' defaults.
    """
    from transformers import LlavaNextConfig

    halves = llava15_7b()
    return LlavaNextConfig(
        text_config=halves.text_config,
        vision_config=halves.vision_config,
        image_token_index=32000,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


class LlavaNext:
    """`LlavaNextForConditionalGeneration`, of any vision tower and any language model."""

    model_type = "llava_next"
    tower = "model.vision_tower"
    language = "model.language_model"
    connector: tuple[str, ...] = ("multi_modal_projector", "image_newline")
    full_size: ClassVar[Configs] = {"llava16_7b": llava16_7b}
    hub_configs: ClassVar[Configs] = {"llava-hf/llava-v1.6-vicuna-7b-hf": llava16_7b}
    hub_names: ClassVar[Mapping[str, str]] = {
        **Llava.hub_names,
        "model.image_newline": "image_newline",
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
            raise ValueError(f"the tiles of a {self.model_type} need the images' sizes")
        layout = anyres(model.config)
        size_pairs = [(height, width) for height, width in sizes.tolist()]
        counts = [layout.tiles(size) for size in size_pairs]
        packed, _ = model.model.pack_image_features(
            model.model.multi_modal_projector(features).split(counts),
            size_pairs,
            image_newline=model.model.image_newline,
            **self.packing(model.config),
        )
        return torch.cat(packed)

    def packing(self, config: Any) -> dict[str, Any]:
        """The settings of the model's own `pack_image_features`."""
        return {"vision_feature_select_strategy": config.vision_feature_select_strategy}

    def processor(
        self, folder: Path, changes: Mapping[str, Any] = MappingProxyType({})
    ) -> "AnyresImages":
        from transformers.models.llava_next.image_processing_pil_llava_next import (
            LlavaNextImageProcessorPil,
        )

        return AnyresImages(
            LlavaNextImageProcessorPil.from_pretrained(folder, local_files_only=True, **changes)
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

    def hub_processor(
        self, config: Any, processor: "AnyresImages", tokenizer: Any, image: str
    ) -> Any:
        from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

        strategy = config.vision_feature_select_strategy
        return LlavaNextProcessor(
            processor.own,
            tokenizer,
            patch_size=config.vision_config.patch_size,
            vision_feature_select_strategy=strategy,
            num_additional_image_tokens=1 if strategy == "default" else 0,  # the class token
            image_token=image,
        )


class AnyresImages:
    """The model's own image processor, its tiles not padded to those of other images."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def pictures(self, images: list[Image.Image]) -> dict[str, Tensor]:
        inputs = self.own([image.convert("RGB") for image in images], do_pad=False)
        return {
            "pixels": torch.from_numpy(np.concatenate(inputs["pixel_values"])),
            "sizes": torch.tensor([(image.height, image.width) for image in images]),
        }

    def save(self, folder: Path) -> None:
        self.own.save_pretrained(folder)

    def tiles(self) -> tuple[int, Grids]:
        """Side of a tile and heights and widths of the grids, pixels."""
        side = self.own.size["height"] or self.own.size["shortest_edge"]
        return side, _pairs(self.own.image_grid_pinpoints)


@dataclasses.dataclass(frozen=True)
class Anyres:
    """The tokens of an image: those of the whole, then the lines of its map with newlines."""

    tile: int  # pixels
    side: int  # features on a side of a tile
    most: int | None  # tiles' worth of features, before a map is interpolated; None: it never is
    pinpoints: Grids
    literal: str | None
    by_size: bool = dataclasses.field(default=True, init=False)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tiles: the pinpoint that keeps most pixels and wastes least."""
        height, width = select_best_resolution(size, list(self.pinpoints))
        return height // self.tile, width // self.tile

    def tiles(self, size: tuple[int, int]) -> int:
        """Tiles that the tower sees of an image, the whole of it included."""
        return 1 + math.prod(self.grid(size))

    def tokens(self, size: tuple[int, int] | None) -> Int[np.ndarray, " image"]:
        if size is None:
            raise ValueError("the number of tokens follows from an image's size")
        lines, columns = self._map(size)
        return np.full(self.side**2 + lines * (columns + 1), FEATURE, dtype=np.int32)

    def _map(self, size: tuple[int, int]) -> tuple[int, int]:
        """Lines and columns of the map, without newlines: the model's own arithmetic."""
        height, width = size
        rows, columns = (count * self.side for count in self.grid(size))
        if width / height > columns / rows:
            rows -= 2 * ((rows - int(round(height * (columns / width), 7))) // 2)
        else:
            columns -= 2 * ((columns - int(round(width * (rows / height), 7))) // 2)
        if self.most is None:
            return rows, columns
        shrink = math.sqrt(rows * columns / (self.most * self.side**2))
        return (int(rows // shrink), int(columns // shrink)) if shrink > 1.1 else (rows, columns)


def anyres(config: Any, literal: str | None = None) -> Anyres:
    """The layout of a configuration: of LLaVA-OneVision where it limits the map."""
    vision = config.vision_config
    limit = getattr(config, "vision_aspect_ratio", None)
    kind = Anyres if limit is None else AnyresOrOneTile
    return kind(
        literal=literal,
        tile=vision.image_size,
        side=vision.image_size // vision.patch_size,
        most=None if limit is None else int(limit.removeprefix("anyres_max_")),
        pinpoints=_pairs(config.image_grid_pinpoints),
    )


ONE_TILE = (0, 0)  # in place of the size of an image that is not cut into tiles


@dataclasses.dataclass(frozen=True)
class AnyresOrOneTile(Anyres):
    """Each image of a row with several is one tile and a newline."""

    def tiles(self, size: tuple[int, int]) -> int:
        return 1 if size == ONE_TILE else super().tiles(size)

    def tokens_of_several(self) -> Int[np.ndarray, " image"]:
        """The whole image, and a newline at its end."""
        return np.full(self.side**2 + 1, FEATURE, dtype=np.int32)


def _pairs(listed: list[list[int]]) -> Grids:
    return tuple((height, width) for height, width in listed)


FAMILIES = (LlavaNext(),)
