"""LLaVA-OneVision: LLaVA-1.6's grid of tiles, with a map of features that is limited in size.

A map that is too large is interpolated. An image of a row with several is one tile and a newline.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xmas.models.families.llava_next import ONE_TILE, AnyresImages, LlavaNext
from xmas.models.families.protocol import Configs
from xmas.models.without_video import without_video


def _onevision(
    width: int, feed_forward: int, layers: int, heads: int, groups: int, vocabulary: int, tied: bool
) -> Any:
    """SigLIP-SO400M without its last layer and head, a Qwen2, up to nine tiles' features.

    Grids and aspect are transformers' defaults.
    """
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    return LlavaOnevisionConfig(
        text_config=Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=feed_forward,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=groups,
            max_position_embeddings=32768,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            bos_token_id=151643,
            eos_token_id=151645,
            tie_word_embeddings=tied,
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
        tie_word_embeddings=tied,
    )


def llava_onevision_05b() -> Any:
    """With Qwen2-0.5B, whose head is its embedding.

    Source: llava-hf/llava-onevision-qwen2-0.5b-ov-hf.
    """
    return _onevision(896, 4864, 24, 14, 2, 152000, tied=True)


def llava_onevision_7b() -> Any:
    """With Qwen2-7B. Source: llava-hf/llava-onevision-qwen2-7b-ov-hf."""
    return _onevision(3584, 18944, 28, 28, 4, 152128, tied=False)


class Onevision(LlavaNext):
    """`LlavaOnevisionForConditionalGeneration`: SigLIP's tower and a Qwen2."""

    model_type = "llava_onevision"
    full_size: ClassVar[Configs] = {
        "llava_onevision_05b": llava_onevision_05b,
        "llava_onevision_7b": llava_onevision_7b,
    }
    hub_configs: ClassVar[Configs] = {
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": llava_onevision_05b,
        "llava-hf/llava-onevision-qwen2-7b-ov-hf": llava_onevision_7b,
    }

    video_processor: ClassVar[str] = "LlavaOnevisionVideoProcessor"

    def packing(self, config: Any) -> dict[str, Any]:
        return {"vision_aspect_ratio": config.vision_aspect_ratio}

    def processor(
        self, folder: Path, changes: Mapping[str, Any] = MappingProxyType({})
    ) -> "OnevisionImages":
        from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
            LlavaOnevisionImageProcessorPil,
        )

        return OnevisionImages(
            LlavaOnevisionImageProcessorPil.from_pretrained(
                folder, local_files_only=True, **changes
            )
        )

    def hub_processor(
        self, config: Any, processor: AnyresImages, tokenizer: Any, image: str
    ) -> Any:
        from transformers.models.llava_onevision.processing_llava_onevision import (
            LlavaOnevisionProcessor,
        )

        side = config.vision_config.image_size // config.vision_config.patch_size
        return without_video(
            LlavaOnevisionProcessor,
            processor.own,
            tokenizer,
            num_image_tokens=side**2,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            image_token=image,
            vision_aspect_ratio=config.vision_aspect_ratio,
        )


class OnevisionImages(AnyresImages):
    """LLaVA-OneVision's own image processor."""

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


FAMILIES = (Onevision(),)
