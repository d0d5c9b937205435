"""Gemma 3: an image squeezed to a square, 4,096 patches pooled to 256 tokens.

The tokens of an image see each other, also those that follow; five of six layers see a window. The
processor writes an empty line before and after the marks of an image.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from xmas.models.chat.layout import FEATURE, Around, literal_of
from xmas.models.chat.saved_tokenizer import name_tokens
from xmas.models.families.llava import Llava
from xmas.models.families.protocol import Configs
from xmas.models.shape import Decoder, Shape, Tower


def gemma3_4b() -> Any:
    """SigLIP-SO400M/14 at 896 pixels, Gemma-3-4B, whose head is its embedding.

    Source: google/gemma-3-4b-it.
    """
    from transformers import Gemma3Config

    return Gemma3Config(
        text_config={
            "vocab_size": 262208,
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 1024,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        vision_config={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 896,
            "patch_size": 14,
            "vision_use_head": False,
        },
    )


class Gemma3:
    """`Gemma3ForConditionalGeneration`."""

    model_type = "gemma3"
    tower = "model.vision_tower"
    language = "model.language_model"
    connector = ("multi_modal_projector",)
    whole_images = True
    full_size: ClassVar[Configs] = {"gemma3_4b": gemma3_4b}
    hub_configs: ClassVar[Configs] = {"google/gemma-3-4b-it": gemma3_4b}
    hub_names: ClassVar[Mapping[str, str]] = Llava.hub_names
    marks: ClassVar[dict[str, str]] = {
        "image_token_index": "<image_soft_token>",
        "boi_token_index": "<start_of_image>",
        "eoi_token_index": "<end_of_image>",
    }

    def features(
        self,
        model: Any,
        pixels: Float[Tensor, "tiles 3 height width"],
        sizes: Int[Tensor, "images 2"] | None = None,
    ) -> Float[Tensor, "tiles patches channels"]:
        return model.model.vision_tower(pixels).last_hidden_state

    def project(
        self,
        model: Any,
        features: Float[Tensor, "tiles patches channels"],
        sizes: Int[Tensor, "images 2"] | None,
    ) -> Float[Tensor, "tokens hidden"]:
        return model.model.multi_modal_projector(features).flatten(0, 1)

    def processor(
        self, folder: Path, changes: Mapping[str, Any] = MappingProxyType({})
    ) -> "SqueezedImages":
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

        own = Gemma3ImageProcessorPil.from_pretrained(folder, local_files_only=True, **changes)
        return SqueezedImages(own)

    def layout(self, config: Any, processor: "SqueezedImages", tokenizer: Any) -> "Enclosed":
        """Raises ValueError: image processor and tower disagree, or crops are asked for."""
        side, own = config.vision_config.image_size, processor.own
        if (own.size["height"], own.size["width"]) != (side, side):
            raise ValueError(
                f"the image processor makes {own.size['height']} x {own.size['width']} pixels, the "
                f"tower takes {side} x {side}: size of preprocessor_config.json and image_size of "
                "config.json have to agree"
            )
        if own.do_pan_and_scan:
            raise ValueError(
                "crops of an image (pan and scan) are not implemented for Gemma 3; set "
                "do_pan_and_scan=false in `images` of the start point"
            )
        return Enclosed(
            config.mm_tokens_per_image,
            (config.boi_token_id, config.eoi_token_id),
            literal_of(tokenizer, config.image_token_id),
        )

    def shape(self, config: Any, *, image_tokens: int | None = None, tiles: float = 1.0) -> Shape:
        decoder, tower = Decoder.of(config.text_config), Tower.of(config.vision_config)
        tokens = image_tokens or config.mm_tokens_per_image
        return Shape(decoder, tower, (tower.width, decoder.width), tokens)

    def chat_image(self, image: str) -> str:
        return self.marks["boi_token_index"]

    def hub_processor(
        self, config: Any, processor: "SqueezedImages", tokenizer: Any, image: str
    ) -> Any:
        from transformers.models.gemma3.processing_gemma3 import Gemma3Processor

        names = {
            "image_token": image,
            "boi_token": self.marks["boi_token_index"],
            "eoi_token": self.marks["eoi_token_index"],
        }
        name_tokens(tokenizer, names)
        return Gemma3Processor(
            processor.own, tokenizer, image_seq_length=config.mm_tokens_per_image
        )


class SqueezedImages:
    """Gemma 3's own image processor."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def pictures(self, images: list[Image.Image]) -> dict[str, Tensor]:
        inputs = self.own([image.convert("RGB") for image in images])
        return {"pixels": torch.from_numpy(np.stack(inputs["pixel_values"]))}

    def save(self, folder: Path) -> None:
        self.own.save_pretrained(folder)


@dataclasses.dataclass(frozen=True)
class Enclosed:
    """The same number of features for every image, between two marks and two empty lines."""

    length: int
    marks: tuple[int, int]
    literal: str | None
    by_size: bool = dataclasses.field(default=False, init=False)
    around: Around = dataclasses.field(default=("\n\n", "\n\n"), init=False)

    def tokens(self, size: tuple[int, int] | None) -> Int[np.ndarray, " image"]:
        first, last = self.marks
        return np.array([first, *[FEATURE] * self.length, last], dtype=np.int32)


FAMILIES = (Gemma3(),)
