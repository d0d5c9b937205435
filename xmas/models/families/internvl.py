"""InternVL3 and 3.5 in transformers' own layout: square tiles, and the whole image as one more.

The image is stretched onto the grid of tiles whose shape is nearest to its own. Four neighbouring
patches of a tile are folded to a token ("pixel shuffle"); two marks enclose those of all tiles.
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

from xmas.models.chat.layout import FEATURE, literal_of
from xmas.models.chat.saved_tokenizer import name_tokens
from xmas.models.families.protocol import Configs
from xmas.models.shape import Decoder, Shape, Tower
from xmas.models.without_video import without_video


def _internvl(text: Any, image_token: int) -> Any:
    """InternViT-300M-448 under a language model whose head is not its embedding.

    Source: OpenGVLab/InternVL, internvl_chat/tools/internvl_custom2hf.py.
    """
    from transformers import InternVLConfig

    return InternVLConfig(
        text_config=text,
        vision_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "attention_bias": True,
            "image_size": 448,
            "patch_size": 14,
        },
        image_token_id=image_token,
        tie_word_embeddings=False,
    )


def _qwen3(width: int, feed_forward: int, layers: int, heads: int) -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=151936,
        hidden_size=width,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=False,
        bos_token_id=151643,
        eos_token_id=151645,
    )


def internvl35_1b() -> Any:
    """Qwen3-0.6B. Source: OpenGVLab/InternVL3_5-1B-HF."""
    return _internvl(_qwen3(1024, 3072, 28, 16), 151671)


def internvl35_4b() -> Any:
    """Qwen3-4B. Source: OpenGVLab/InternVL3_5-4B-HF."""
    return _internvl(_qwen3(2560, 9728, 36, 32), 151671)


def internvl3_1b() -> Any:
    """Qwen2.5-0.5B. Source: OpenGVLab/InternVL3-1B-hf."""
    from transformers import Qwen2Config

    text = Qwen2Config(
        vocab_size=151674,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=False,
        bos_token_id=151643,
        eos_token_id=151645,
    )
    return _internvl(text, 151667)


class InternVl:
    """`InternVLForConditionalGeneration`, of any language model."""

    model_type = "internvl"
    tower = "model.vision_tower"
    language = "model.language_model"
    connector = ("multi_modal_projector",)
    full_size: ClassVar[Configs] = {
        "internvl35_1b": internvl35_1b,
        "internvl35_4b": internvl35_4b,
        "internvl3_1b": internvl3_1b,
    }
    hub_configs: ClassVar[Configs] = {
        "OpenGVLab/InternVL3_5-1B-HF": internvl35_1b,
        "OpenGVLab/InternVL3_5-4B-HF": internvl35_4b,
        "OpenGVLab/InternVL3-1B-hf": internvl3_1b,
    }
    hub_names: ClassVar[Mapping[str, str]] = {"model.": "model.", "lm_head.": "lm_head."}
    video_processor: ClassVar[str] = "InternVLVideoProcessor"
    marks: ClassVar[dict[str, str]] = {
        "image_token_id": "<IMG_CONTEXT>",
        "start_image_token_id": "<img>",
        "end_image_token_id": "</img>",
    }

    def features(
        self,
        model: Any,
        pixels: Float[Tensor, "tiles 3 height width"],
        sizes: Int[Tensor, "images 2"] | None = None,
    ) -> Float[Tensor, "tiles patches channels"]:
        layer = model.config.vision_feature_layer
        outputs = model.model.vision_tower(pixels, output_hidden_states=layer != -1)
        hidden = outputs.last_hidden_state if layer == -1 else outputs.hidden_states[layer]
        first = 1 if model.config.vision_feature_select_strategy == "default" else 0
        return hidden[:, first:]

    def project(
        self,
        model: Any,
        features: Float[Tensor, "tiles patches channels"],
        sizes: Int[Tensor, "images 2"] | None,
    ) -> Float[Tensor, "tokens hidden"]:
        side = round(features.shape[1] ** 0.5)
        patches = features.unflatten(1, (side, side))
        folded = model.model.pixel_shuffle(patches, scale_factor=model.config.downsample_ratio)
        return model.model.multi_modal_projector(folded).flatten(0, 2)

    def processor(
        self, folder: Path, changes: Mapping[str, Any] = MappingProxyType({})
    ) -> "StretchedTiles":
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
            GotOcr2ImageProcessorPil,
        )

        tiled: dict[str, Any] = {"crop_to_patches": True}  # as InternVL's processor sets it
        return StretchedTiles(
            GotOcr2ImageProcessorPil.from_pretrained(
                folder, local_files_only=True, **(tiled | dict(changes))
            )
        )

    def layout(self, config: Any, processor: "StretchedTiles", tokenizer: Any) -> "Marked":
        """Raises ValueError: image processor and tower disagree about a tile's size."""
        height, width = config.vision_config.image_size
        size = processor.own.size
        if (size["height"], size["width"]) != (height, width):
            raise ValueError(
                f"the image processor makes tiles of {size['height']} x {size['width']} pixels, "
                f"the tower takes {height} x {width}: size of preprocessor_config.json and "
                "image_size of config.json have to agree"
            )
        ends = [self.marks["start_image_token_id"], self.marks["end_image_token_id"]]
        return Marked(
            processor.own,
            _folded(config),
            tuple(tokenizer.convert_tokens_to_ids(ends)),
            literal_of(tokenizer, config.image_token_id),
        )

    def shape(self, config: Any, *, image_tokens: int | None = None, tiles: float = 1.0) -> Shape:
        vision, decoder = config.vision_config, Decoder.of(config.text_config)
        tokens, patches = _folded(config), _patches(config)
        tower = Tower(
            layers=vision.num_hidden_layers,
            width=vision.hidden_size,
            feed_forward=vision.intermediate_size,
            patches=patches,
            patch=vision.patch_size[0],
        )
        folded = patches // tokens * vision.hidden_size
        projector = (folded, decoder.width, decoder.width)
        return Shape(decoder, tower, projector, image_tokens or round(tiles * tokens), tiles)

    def chat_image(self, image: str) -> str:
        return image  # transformers' processor puts the marks around it

    def hub_processor(
        self, config: Any, processor: "StretchedTiles", tokenizer: Any, image: str
    ) -> Any:
        from transformers.models.internvl.processing_internvl import InternVLProcessor

        names = {
            "start_image_token": self.marks["start_image_token_id"],
            "end_image_token": self.marks["end_image_token_id"],
            "context_image_token": image,
            "video_token": "<video>",
        }
        name_tokens(tokenizer, names)
        return without_video(
            InternVLProcessor, processor.own, tokenizer, image_seq_length=_folded(config)
        )


class StretchedTiles:
    """InternVL's own image processor, GOT-OCR2's."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def pictures(self, images: list[Image.Image]) -> dict[str, Tensor]:
        inputs = self.own([image.convert("RGB") for image in images])
        return {"pixels": torch.from_numpy(np.stack(inputs["pixel_values"]))}

    def save(self, folder: Path) -> None:
        self.own.save_pretrained(folder)


@dataclasses.dataclass(frozen=True)
class Marked:
    """A mark, the tokens of an image's tiles and of the whole of it, another mark."""

    own: Any  # the image processor, which says how many tiles there are
    length: int  # features of a tile
    marks: tuple[int, ...]
    literal: str | None
    by_size: bool = dataclasses.field(default=True, init=False)

    def tokens(self, size: tuple[int, int] | None) -> Int[np.ndarray, " image"]:
        if size is None:
            raise ValueError("the number of InternVL's tokens follows from an image's size")
        count = self.length * self.own.get_number_of_image_patches(*size)
        first, last = self.marks
        return np.array([first, *[FEATURE] * count, last], dtype=np.int32)


def _patches(config: Any) -> int:
    """Patches of a tile."""
    (height, width), (line, column) = (
        config.vision_config.image_size,
        config.vision_config.patch_size,
    )
    return (height // line) * (width // column)


def _folded(config: Any) -> int:
    """Tokens of a tile."""
    return round(_patches(config) * config.downsample_ratio**2)


FAMILIES = (InternVl(),)
