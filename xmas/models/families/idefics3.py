"""Idefics3 and SmolVLM: an image cut into tiles, and the whole image as one more tile.

Every tile gives the same number of tokens (its patches, neighbours folded together: "pixel
shuffle"), after marks that name its row and column.
"""

import dataclasses
import importlib
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

from xmas.models.chat.layout import FEATURE, literal_of
from xmas.models.families.protocol import Configs
from xmas.models.shape import Shape

LONGEST = 4096  # pixels an image is never resized beyond; a constant of the image processors


SIGLIP_B_512 = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}


def smollm2(
    width: int,
    feed_forward: int,
    layers: int,
    heads: int,
    groups: int,
    *,
    positions: int = 8192,
    theta: float = 1e5,
) -> Any:
    """A SmolLM2 whose head is not its embedding."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=49280,
        hidden_size=width,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=64,
        max_position_embeddings=positions,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        pad_token_id=2,
    )


def smolvlm_256m() -> Any:
    """SigLIP-B/16-512, sixteen patches folded into a token, SmolLM2-135M.

    Source: HuggingFaceTB/SmolVLM-256M-Instruct.
    """
    from transformers import Idefics3Config

    return Idefics3Config(
        text_config=smollm2(576, 1536, 30, 9, 3),
        vision_config=SIGLIP_B_512,
        scale_factor=4,
        image_token_id=49190,
    )


@dataclasses.dataclass(frozen=True)
class Idefics3:
    """`Idefics3ForConditionalGeneration`."""

    model_type: str  # and transformers' module
    own: str  # class of its PIL image processor
    full_size: Configs = dataclasses.field(default_factory=dict, compare=False)
    hub_configs: Configs = dataclasses.field(default_factory=dict, compare=False)
    tower: str = "model.vision_model"
    language: str = "model.text_model"
    connector: tuple[str, ...] = ("connector",)
    hub_names: ClassVar[Mapping[str, str]] = {"model.": "model.", "lm_head.": "lm_head."}
    hub_class: ClassVar[str] = "Idefics3Processor"
    marks: ClassVar[dict[str, str]] = {
        "image_token_id": "<image>",
        "fake_image_token_id": "<fake_token_around_image>",
        "end_of_utterance_token_id": "<end_of_utterance>",
    }

    def features(
        self,
        model: Any,
        pixels: Float[Tensor, "tiles 3 height width"],
        sizes: Int[Tensor, "images 2"] | None = None,
    ) -> Float[Tensor, "tiles patches channels"]:
        return model.model.vision_model(pixels.to(model.dtype)).last_hidden_state

    def project(
        self,
        model: Any,
        features: Float[Tensor, "tiles patches channels"],
        sizes: Int[Tensor, "images 2"] | None,
    ) -> Float[Tensor, "tokens hidden"]:
        return model.model.connector(features).flatten(0, 1)

    def processor(
        self, folder: Path, changes: Mapping[str, Any] = MappingProxyType({})
    ) -> "TiledImages":
        module = f"transformers.models.{self.model_type}.image_processing_pil_{self.model_type}"
        own = getattr(importlib.import_module(module), self.own)
        return TiledImages(own.from_pretrained(folder, local_files_only=True, **changes))

    def layout(self, config: Any, processor: "TiledImages", tokenizer: Any) -> "Tiles":
        """Raises ValueError: image processor and tower disagree about a tile's size."""
        vision = config.vision_config
        own = processor.own
        tile = own.max_image_size["longest_edge"]
        if tile != vision.image_size:
            raise ValueError(
                f"the image processor cuts tiles of {tile} pixels, the tower takes "
                f"{vision.image_size}: max_image_size of preprocessor_config.json and image_size "
                "of config.json have to agree"
            )
        return Tiles(
            length=_tokens_of_a_tile(config),
            tile=tile,
            longest=own.size["longest_edge"] if own.do_resize else None,
            split=own.do_image_splitting,
            tokenizer=tokenizer,
            literal=literal_of(tokenizer, config.image_token_id),
        )

    def shape(self, config: Any, *, image_tokens: int | None = None, tiles: float = 1.0) -> Shape:
        return Shape.of(
            config, image_tokens=image_tokens, tiles=tiles, folded=config.scale_factor**2, linears=1
        )

    def chat_image(self, image: str) -> str:
        return image  # transformers' processor puts tiles and marks in its place

    def hub_processor(
        self, config: Any, processor: "TiledImages", tokenizer: Any, image: str
    ) -> Any:
        from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

        tokens = _tokens_of_a_tile(config)
        kind = type(
            self.hub_class, (Idefics3Processor,), {"__module__": Idefics3Processor.__module__}
        )
        return kind(processor.own, tokenizer, image_seq_len=tokens)


class TiledImages:
    """The model's own image processor, its tiles not padded to those of other images."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def pictures(self, images: list[Image.Image]) -> dict[str, Tensor]:
        inputs = self.own([[image.convert("RGB")] for image in images], do_pad=False)
        tiles = [tile for image in inputs["pixel_values"] for tile in image]
        return {"pixels": torch.from_numpy(np.stack(tiles))}

    def save(self, folder: Path) -> None:
        self.own.save_pretrained(folder)


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The tokens of an image: its tiles line by line with marks, then the whole of it."""

    length: int  # features of a tile
    tile: int  # pixels
    longest: int | None  # pixels of an image's longer side once resized; null: as it is
    split: bool  # into tiles; else the whole only
    tokenizer: Any = dataclasses.field(compare=False)  # of the marks
    literal: str | None
    by_size: bool = dataclasses.field(default=True, init=False)
    _known: dict[tuple[int, int], Int[np.ndarray, " image"]] = dataclasses.field(
        default_factory=dict, init=False, compare=False, repr=False
    )  # by grid: a pool has few, and marks are slow to tokenise

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tiles, (0, 0) where the whole is the only one."""
        height, width = size
        if not self.split:
            return 0, 0
        if self.longest is not None:
            height, width = _no_longer(*_as_long(height, width, self.longest))
        height, width = _whole_tiles(height, width, self.tile)
        if height <= self.tile and width <= self.tile:
            return 0, 0
        return height // self.tile, width // self.tile

    def tokens(self, size: tuple[int, int] | None) -> Int[np.ndarray, " image"]:
        """Source: `replace_image_token` of `processing_idefics3.py`, `processing_smolvlm.py`."""
        if size is None:
            raise ValueError("the number of Idefics3's tokens follows from an image's size")
        grid = self.grid(size)
        if grid not in self._known:
            self._known[grid] = self._tokens(*grid)
        return self._known[grid]

    def _tokens(self, rows: int, columns: int) -> Int[np.ndarray, " image"]:
        parts: list[str | None] = []  # None: a tile's features
        for row in range(1, rows + 1):
            for column in range(1, columns + 1):
                parts += [f"<fake_token_around_image><row_{row}_col_{column}>", None]
            parts.append("\n" if row < rows else "\n\n")
        parts += ["<fake_token_around_image><global-img>", None, "<fake_token_around_image>"]
        tile = np.full(self.length, FEATURE, dtype=np.int32)
        return np.concatenate([tile if part is None else self._mark(part) for part in parts])

    def _mark(self, text: str) -> Int[np.ndarray, " mark"]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return np.array(ids, dtype=np.int32)


def _tokens_of_a_tile(config: Any) -> int:
    side = config.vision_config.image_size // config.vision_config.patch_size
    return side**2 // config.scale_factor**2


def _as_long(height: int, width: int, longest: int) -> tuple[int, int]:
    """Resized so that the longer side is `longest`, the other one even."""
    aspect = width / height
    if width >= height:
        shorter = int(longest / aspect)
        return max(shorter + shorter % 2, 1), longest
    shorter = int(longest * aspect)
    return longest, max(shorter + shorter % 2, 1)


def _no_longer(height: int, width: int) -> tuple[int, int]:
    aspect = width / height
    if width >= height and width > LONGEST:
        return max(int(LONGEST / aspect), 1), LONGEST
    if height > width and height > LONGEST:
        return LONGEST, max(int(LONGEST * aspect), 1)
    return height, width


def _whole_tiles(height: int, width: int, tile: int) -> tuple[int, int]:
    """Both sides rounded up to whole tiles, the longer one first."""
    aspect = width / height
    if width >= height:
        width = math.ceil(width / tile) * tile
        return math.ceil(int(width / aspect) / tile) * tile, width
    height = math.ceil(height / tile) * tile
    return height, math.ceil(int(height * aspect) / tile) * tile


FAMILIES = (
    Idefics3(
        "idefics3",
        "Idefics3ImageProcessorPil",
        full_size={"smolvlm_256m": smolvlm_256m},
        hub_configs={"HuggingFaceTB/SmolVLM-256M-Instruct": smolvlm_256m},
    ),
)
