"""A tiny random model of every family; a family adds an entry to `TINY` for its contract.

What an entry says in addition to its folder is how others do it: the inputs that the model's own
forward takes, the chat template of its published folders, the weights that a step of LoRA changes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tiny
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3VLConfig,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from xmas.models.chat.own_template import OwnTemplate
from xmas.models.chat.template import Template
from xmas.models.published import Published
from xmas.models.sources import Source
from xmas.models.start_point import StartPoint

Inputs = Callable[[Any, Any, Sequence[Image.Image]], dict[str, Tensor]]


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A family's tiny model, and what transformers and published folders say of it.

    Args:
        write: a model folder, its start point; `tiny.start` shows how weights are drawn.
        template: what the YAML of its published models configures.
        chat: the chat template of its published folders, answers inside `generation`.
        inputs: what the model's own forward takes for the pictures of one row, next to ids and
            mask: of the model, its image processor (transformers' own) and the pictures.
        connector: patterns of the weights between tower and language model that LoRA trains in
            full; of the language model it changes `layers`.
        of_ids: what else the forward takes, from the configuration and the ids.
        layers: patterns of the language model's adapted weights.
        image: what `chat` renders for an image.
        scanned: the family's attention can be read.
        one_image: height and width of an image that `sizes` names, where a family needs them.
        tiles: of `one_image` at full size.
        tower_on_meta: the tower takes tiles on the meta device: it asks for no numbers there.
    """

    write: Callable[[Path], StartPoint]
    template: Template | OwnTemplate
    chat: str
    inputs: Inputs
    connector: tuple[str, ...]
    of_ids: Callable[[Any, Tensor], dict[str, Tensor]] = lambda config, ids: {}
    layers: tuple[str, ...] = (
        "model.language_model.layers.*.self_attn.[qkvo]_proj.weight",
        "model.language_model.layers.*.mlp.*_proj.weight",
    )
    image: str = "<image>"
    scanned: bool = True
    one_image: tuple[int, int] | None = None
    tiles: int = 1
    tower_on_meta: bool = True


VISION = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def qwen_vl(folder: Path, config_class: Any, text: dict[str, Any], vision: dict[str, Any]) -> Any:
    """Patches of 4 pixels, heads of 16 numbers in three axes, a head that is the embedding."""
    tokenizer = tiny.tokenizer("<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": VISION})
    starts, ends, image, video = tokenizer.convert_tokens_to_ids(VISION)
    config = config_class(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 48, "intermediate_size": 56,
            "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 1,
            "max_position_embeddings": 2048, "initializer_range": 0.1,
            "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 0,
        } | text,
        vision_config={
            "depth": 3, "hidden_size": 32, "intermediate_size": 40, "num_heads": 2,
            "patch_size": 4, "out_hidden_size": 48, "initializer_range": 0.1,
        } | vision,
        image_token_id=image, video_token_id=video, vision_start_token_id=starts,
        vision_end_token_id=ends, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    own = Qwen2VLImageProcessorPil(patch_size=4, min_pixels=64, max_pixels=4000)
    own.save_pretrained(folder)
    return Published(Source(str(folder)))


def qwen2_vl(folder: Path) -> Published:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    vision = {"hidden_size": 48, "embed_dim": 32, "mlp_ratio": 2}
    return qwen_vl(folder, Qwen2VLConfig, {"rope_parameters": rope}, vision)


def qwen25_vl(folder: Path) -> Published:
    """Windows of 3 x 3 tokens."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    vision = {"window_size": 24, "fullatt_block_indexes": [1]}
    return qwen_vl(folder, Qwen2_5_VLConfig, {"rope_parameters": rope}, vision)


def qwen3_vl(folder: Path) -> Published:
    """Features of two of the tower's layers after two of three layers; a grid of 5 x 5 places."""
    rope = {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [2, 3, 3],
        "mrope_interleaved": True,
    }
    text = {"rope_parameters": rope, "head_dim": 16}
    vision = {"deepstack_visual_indexes": [0, 2], "num_position_embeddings": 25}
    return qwen_vl(folder, Qwen3VLConfig, text, vision)


def internvl(folder: Path) -> Published:
    """Tiles of 42 pixels, 6 x 6 patches folded to 9 tokens, up to six tiles and the whole image."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    tokenizer = tiny.tokenizer("<|im_end|>")
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<img>", "</img>", "<IMG_CONTEXT>"]}
    )
    config = InternVLConfig(
        text_config=tiny.language_config("qwen3", len(tokenizer)),
        vision_config={
            "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
            "num_attention_heads": 3, "attention_bias": True, "image_size": 42, "patch_size": 7,
            "initializer_range": 0.1, "layer_scale_init_value": 1.0,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=9,
        tie_word_embeddings=False,
    )  # fmt: skip
    InternVLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    side = {"height": 42, "width": 42}
    GotOcr2ImageProcessorPil(size=side, max_patches=6).save_pretrained(folder)
    return Published(Source(str(folder)))


def llava_next(folder: Path) -> Published:
    """Grids of 21-pixel tiles of 3 x 3 patches, CLIP's class token taken off."""
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    tokenizer = tiny.tokenizer()
    grids = [[21, 42], [42, 21], [42, 42], [63, 21], [21, 63]]
    config = LlavaNextConfig(
        text_config=tiny.language_config("mistral", len(tokenizer), sliding_window=None),
        vision_config=tiny.clip_config().vision_config,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grids,
    )
    LlavaNextForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    LlavaNextImageProcessorPil(
        size={"shortest_edge": 21},
        crop_size={"height": 21, "width": 21},
        image_grid_pinpoints=grids,
    ).save_pretrained(folder)
    return Published(Source(str(folder)))


def gemma3(folder: Path, window: int = 97) -> Published:
    """6 x 6 patches pooled to 9 tokens; two of three layers see a window."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    tokenizer = tiny.tokenizer("<end_of_turn>")
    marks = ["<image_soft_token>", "<start_of_image>", "<end_of_image>"]
    named = ["<bos>", "<start_of_turn>", "<end_of_turn>", *marks]
    tokenizer.add_special_tokens({"additional_special_tokens": named})
    tokenizer.bos_token, tokenizer.chat_template = "<bos>", GEMMA
    image, first, last = tokenizer.convert_tokens_to_ids(marks)
    config = Gemma3Config(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 48, "intermediate_size": 56,
            "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
            "head_dim": 16, "query_pre_attn_scalar": 50, "sliding_window": window,
            "max_position_embeddings": 1024, "initializer_range": 0.1, "pad_token_id": 0,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "bos_token_id": None, "eos_token_id": 0,
        },
        vision_config={
            "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
            "num_attention_heads": 3, "image_size": 24, "patch_size": 4,
            "vision_use_head": False,
        },
        mm_tokens_per_image=9, image_token_index=image, boi_token_index=first,
        eoi_token_index=last,
    )  # fmt: skip
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Gemma3ImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(folder)
    return Published(Source(str(folder)))


def squares(model: Any, processor: Any, images: Sequence[Image.Image]) -> dict[str, Tensor]:
    """LLaVA-1.5's: no published file says that images are padded, so `SquareImages` does it."""
    return {"pixel_values": processor(list(images))}


def grid_inputs(model: Any, processor: Any, images: Sequence[Image.Image]) -> dict[str, Tensor]:
    return dict(processor.own(list(images), return_tensors="pt"))


def stretched_inputs(
    model: Any, processor: Any, images: Sequence[Image.Image]
) -> dict[str, Tensor]:
    encoded = processor.own(list(images), return_tensors="pt")
    return {"pixel_values": encoded["pixel_values"]}


def anyres_inputs(model: Any, processor: Any, images: Sequence[Image.Image]) -> dict[str, Tensor]:
    """The pictures of a row are a list of their own: several are a tile each."""
    encoded = processor.own([list(images)], return_tensors="pt")
    return {name: encoded[name] for name in ("pixel_values", "image_sizes", "batch_num_images")}


def tiled_inputs(model: Any, processor: Any, images: Sequence[Image.Image]) -> dict[str, Tensor]:
    encoded = processor.own([list(images)], return_tensors="pt")
    return {name: encoded[name] for name in ("pixel_values", "pixel_attention_mask")}


def native_inputs(model: Any, processor: Any, images: Sequence[Image.Image]) -> dict[str, Tensor]:
    return dict(processor.own(list(images), return_tensors="pt"))


def image_blocks(config: Any, ids: Tensor) -> dict[str, Tensor]:
    return {"token_type_ids": (ids == config.image_token_id).int()}


def image_types(config: Any, ids: Tensor) -> dict[str, Tensor]:
    return {"mm_token_type_ids": (ids == config.image_token_id).int()}


# google/gemma-3-4b-it, chat_template.json; a system turn left out. The processor writes an empty
# line before and after an image's tokens.
_GEMMA_PARTS = (
    "{% for part in message.content %}{% if part.type == 'image' %}<start_of_image>"
    "{% else %}{{ part.text | trim }}{% endif %}{% endfor %}<end_of_turn>"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{% if message.role == 'user' %}{{ 'user\n' }}" + _GEMMA_PARTS + "{% else %}{{ 'model\n' }}"
    "{% generation %}" + _GEMMA_PARTS + "{% endgeneration %}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_PARTS = (
    "{% for part in message.content %}{% if part.type == 'image' %}{{ IMAGE }}"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}"
)
_ANSWER = "{% for part in message.content %}{{ part.text }}{% endfor %}"
# TinyLLaVA's "phi"; a single image and a newline open their turn.
PHI = (
    tiny.PHI.system + " {% for message in messages %}{% if message.role == 'user' %}USER: "
    "{% for part in message.content %}{% if part.type == 'image' %}<image_here>"
    "{% if messages[0].content | length == 2 %}{{ '\n' }}{% endif %}"
    "{% else %}{{ part.text }}{% endif %}{% endfor %} ASSISTANT:"
    "{% else %}{% generation %} " + _ANSWER + "<|endoftext|>{% endgeneration %}"
    "{% endif %}{% endfor %}"
)
# The ChatML that LLaVA-OneVision was trained with, without its system prompt: LLaVA-NeXT,
# preprocess_qwen of train.py. The template of llava-hf's folders has a space after a role.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'user' %}"
    "{% for part in message.content %}{% if part.type == 'image' %}<image>"
    "{% if messages[0].content | length == 2 %}{{ '\n' }}{% endif %}"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% else %}"
    "{% generation %}" + _ANSWER + "<|im_end|>{% endgeneration %}{{ '\n' }}{% endif %}{% endfor %}"
)
# HuggingFaceTB/SmolVLM-256M-Instruct, chat_template.json.
SMOL = (
    "<|im_start|>{% for message in messages %}{{ message.role | capitalize }}"
    "{% if message.role == 'user' %}"
    "{% if message.content[0].type == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    + _PARTS.replace("IMAGE", "'<image>'")
    + "<end_of_utterance>\n{% else %}:{% generation %} "
    + _ANSWER
    + "<end_of_utterance>{% endgeneration %}{{ '\n' }}{% endif %}{% endfor %}"
)
# Qwen/Qwen2.5-VL-3B-Instruct, chat_template.json; that of Qwen/Qwen3-VL-4B-Instruct has no system
# prompt.
_QWEN_SYSTEM = (
    "{% if loop.first and message.role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
QWEN = (
    "{% for message in messages %}"
    + _QWEN_SYSTEM
    + "<|im_start|>{{ message.role }}\n{% if message.role == 'user' %}"
    + _PARTS.replace("IMAGE", "'<|vision_start|><|image_pad|><|vision_end|>'")
    + "<|im_end|>\n{% else %}{% generation %}"
    + _ANSWER
    + "<|im_end|>{% endgeneration %}{{ '\n' }}{% endif %}{% endfor %}"
)
QWEN_TEMPLATE = dataclasses.replace(
    tiny.CHATML,
    system="<|im_start|>system\nYou are a helpful assistant.<|im_end|>",
    behind_system="\n",
    behind_image="",
)
_TILED = Tiny(
    tiny.KINDS["idefics3"],
    tiny.SMOL,
    SMOL,
    tiled_inputs,
    ("model.connector.modality_projection.proj.weight",),
    layers=(
        "model.text_model.layers.*.self_attn.[qkvo]_proj.weight",
        "model.text_model.layers.*.mlp.*_proj.weight",
    ),
    tower_on_meta=False,
)
_QWEN25 = Tiny(
    qwen25_vl,
    QWEN_TEMPLATE,
    QWEN,
    native_inputs,
    ("model.visual.merger.*",),
    of_ids=image_types,
    image="<|vision_start|><|image_pad|><|vision_end|>",
    one_image=(56, 84),
    tower_on_meta=False,
)
TINY: Mapping[str, Tiny] = MappingProxyType(
    {
        "llava": Tiny(
            tiny.DECODERS["llama"],
            tiny.PHI,
            PHI,
            squares,
            ("model.multi_modal_projector.linear_*",),
            image="<image_here>",  # the tokenizer has no name for the model's image token
        ),
        "llava_onevision": Tiny(
            tiny.KINDS["onevision"],
            tiny.CHATML,
            CHATML,
            anyres_inputs,
            # without `image_newline`, no module: frozen under LoRA, as in LLaVA-NeXT's train.py
            ("model.multi_modal_projector.linear_*",),
            one_image=(0, 0),
        ),
        "llava_next": Tiny(
            llava_next,
            tiny.PHI,
            PHI.replace("<image_here>", "<image>"),
            grid_inputs,
            # without `image_newline`, as above
            ("model.multi_modal_projector.linear_*",),
            one_image=(672, 336),
            tiles=3,
        ),
        "internvl": Tiny(
            internvl,
            tiny.CHATML,
            CHATML.replace("<image>", "<IMG_CONTEXT>"),
            stretched_inputs,
            ("model.multi_modal_projector.*",),
            image="<IMG_CONTEXT>",
        ),
        "gemma3": Tiny(
            gemma3,
            OwnTemplate(),
            GEMMA.replace("<start_of_image>", "{{ '\n\n<start_of_image>\n\n' }}"),
            stretched_inputs,
            ("model.multi_modal_projector.*",),
            of_ids=image_blocks,
            image="<start_of_image>",
        ),
        "idefics3": _TILED,
        "smolvlm": dataclasses.replace(_TILED, write=tiny.KINDS["smolvlm"]),
        "qwen2_vl": dataclasses.replace(_QWEN25, write=qwen2_vl),
        "qwen2_5_vl": _QWEN25,
        "qwen3_vl": dataclasses.replace(
            _QWEN25,
            write=qwen3_vl,
            template=dataclasses.replace(QWEN_TEMPLATE, system="", behind_system=""),
            chat=QWEN.replace(_QWEN_SYSTEM, ""),
            one_image=(64, 96),
        ),
    }
)
