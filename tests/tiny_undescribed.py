"""Tiny random models of classes that no file of `xmas.models.families` describes.

Aya Vision: an image is tiles, with text between their tokens. GLM-4V: an image at its own size,
positions in three axes (M-RoPE), a connector inside the tower.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tiny
from PIL import Image
from tiny_families import PHI, Tiny, image_types
from torch import Tensor
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
)
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from xmas.models.published import Published
from xmas.models.sources import Source

AYA_MARKS = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>")
GLM_MARKS = ("<|begin_of_image|>", "<|end_of_image|>", "<|image|>", "<|video|>")
GLM_MARKS += ("<|begin_of_video|>", "<|end_of_video|>")


# A chat template of their own, images where a turn has them; `IMAGE` is theirs.
CHAT = (
    "{% for message in messages %}{{ message.role | upper }}: "
    "{% for part in message.content %}{% if part.type == 'image' %}IMAGE"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% if message.role == 'assistant' %}<|endoftext|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


def tokenizer(marks: Sequence[str], image: str) -> Any:
    """A tokenizer with the marks of a model, whose chat template writes `image` for an image."""
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = CHAT.replace("IMAGE", image)
    tokenizer.add_special_tokens({"additional_special_tokens": list(marks)})
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def aya_vision(folder: Path) -> Published:
    """Tiles of 6 x 6 patches, four of which are a token; up to six tiles and the whole."""
    words = tokenizer(AYA_MARKS, "<image>")
    config = AyaVisionConfig(
        text_config=tiny.language_config("llama", len(words)),
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 40,
            "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 24, "patch_size": 4,
            "vision_use_head": False,
        },
        downsample_factor=2,
        alignment_intermediate_size=40,
        image_token_index=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )  # fmt: skip
    AyaVisionForConditionalGeneration(config).save_pretrained(folder)
    images = GotOcr2ImageProcessorPil(
        size={"height": 24, "width": 24}, crop_to_patches=True, min_patches=1, max_patches=6
    )
    AyaVisionProcessor(
        images,
        words,
        patch_size=4,
        img_size=24,
        downsample_factor=2,
        chat_template=words.chat_template,
    ).save_pretrained(folder)
    return Published(Source(str(folder)))


def glm4v(folder: Path) -> Published:
    """Patches of 4 pixels, four of which are a token; head dimension 16, half of it rotated."""
    words = tokenizer(GLM_MARKS, "<|begin_of_image|><|image|><|end_of_image|>")
    first, last, image, video, *_ = words.convert_tokens_to_ids(list(GLM_MARKS))
    config = Glm4vConfig(
        text_config={
            "vocab_size": len(words), "hidden_size": 48, "intermediate_size": 56,
            "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 1,
            "max_position_embeddings": 1024, "initializer_range": 0.1, "pad_token_id": 0,
            "bos_token_id": None, "eos_token_id": 0,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2],
                "partial_rotary_factor": 0.5,
            },
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 40, "num_heads": 2,
            "patch_size": 4, "image_size": 32, "out_hidden_size": 48, "initializer_range": 0.1,
        },
        image_token_id=image, video_token_id=video, image_start_token_id=first,
        image_end_token_id=last,
    )  # fmt: skip
    Glm4vForConditionalGeneration(config).save_pretrained(folder)
    words.save_pretrained(folder)
    size = {"shortest_edge": 256, "longest_edge": 4000}  # pixels of an image
    Glm4vImageProcessorPil(patch_size=4, size=size).save_pretrained(folder)
    return Published(Source(str(folder)))


def images_inputs(model: Any, processor: Any, images: Sequence[Image.Image]) -> dict[str, Tensor]:
    """Those of transformers' image processor alone."""
    return dict(processor.own.image_processor(list(images), return_tensors="pt"))


UNDESCRIBED: Mapping[str, Tiny] = MappingProxyType(
    {
        "aya_vision": Tiny(
            aya_vision,
            tiny.PHI,
            PHI.replace("<image_here>", "<|IMG_PATCH|>"),
            lambda *inputs: {"pixel_values": images_inputs(*inputs)["pixel_values"]},
            ("model.multi_modal_projector.*",),
            image="<|IMG_PATCH|>",
        ),
        "glm4v": Tiny(
            glm4v,
            tiny.PHI,
            PHI.replace("<image_here>", "<|begin_of_image|><|image|><|end_of_image|>"),
            images_inputs,
            ("model.visual.merger.*",),
            of_ids=image_types,
            layers=(
                "model.language_model.layers.*.self_attn.[qkvo]_proj.weight",
                "model.language_model.layers.*.mlp.*_proj.weight",
            ),
            image="<|begin_of_image|><|image|><|end_of_image|>",
        ),
    }
)
