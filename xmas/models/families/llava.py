"""LLaVA: one square tile an image, a constant number of tokens, an MLP between the two models."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xmas.data.images.pixels import FILE, SquareImages
from xmas.models.chat.layout import Fixed, Layout, literal_of
from xmas.models.families.protocol import Configs
from xmas.models.shape import Shape


def clip_l_336() -> Any:
    """CLIP-L/14-336's vision half. Source: openai/clip-vit-large-patch14-336."""
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )


def llava15(width: int, feed_forward: int, layers: int, heads: int) -> Any:
    """A Vicuna v1.5 under CLIP-L/14-336 with LLaVA's two more tokens, padded to 32,064 lines.

    Source: lmsys/vicuna-7b-v1.5 and -13b-v1.5; the layout of llava-hf/llava-1.5-7b-hf.
    """
    from transformers import LlamaConfig, LlavaConfig

    return LlavaConfig(
        text_config=LlamaConfig(
            vocab_size=32064,
            hidden_size=width,
            intermediate_size=feed_forward,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=4096,
            rms_norm_eps=1e-5,
            pad_token_id=0,
        ),
        vision_config=clip_l_336(),
        image_token_index=32000,
        image_seq_length=576,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def llava15_7b() -> Any:
    return llava15(4096, 11008, 32, 32)


def llava15_13b() -> Any:
    return llava15(5120, 13824, 40, 40)


def tinyllava_stablelm() -> Any:
    """StableLM-2-1.6B under CLIP-L/14-336, the proxy of the XMAS release.

    Source: stabilityai/stablelm-2-zephyr-1_6b, openai/clip-vit-large-patch14-336.
    """
    from transformers import LlavaConfig, StableLmConfig

    return LlavaConfig(
        text_config=StableLmConfig(
            vocab_size=100352,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=24,
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=4096,
            layer_norm_eps=1e-5,
            use_qkv_bias=True,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.25,
            },
            bos_token_id=100257,
            eos_token_id=100257,
        ),
        vision_config=clip_l_336(),
        image_token_index=100351,  # any row after the tokenizer's; `Assembled` takes the first
        image_seq_length=576,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def tower_layers(
    model: Any, pixels: Float[Tensor, "tiles 3 height width"]
) -> Float[Tensor, "tiles patches channels"]:
    """Run the tower: the configured layer, or several concatenated, without a class token."""
    config = model.config
    layers = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    feature_layers = config.vision_feature_layer
    first = 1 if config.vision_feature_select_strategy == "default" else 0
    if isinstance(feature_layers, int):
        return layers[feature_layers][:, first:]
    return torch.cat([layers[layer][:, first:] for layer in feature_layers], dim=-1)


def tuned_on_instructions(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json`, of LLaVA's own or the hub's folders, is that of a tuned LLaVA.

    With `tune_mm_mlp_adapter` the projector alone was trained.
    """
    kind = str(config.get("model_type", "")) + " ".join(config.get("architectures") or [])
    is_llava = "llava" in kind.lower() or "mm_projector_type" in config
    return is_llava and not config.get("tune_mm_mlp_adapter", False)


class Llava:
    """`LlavaForConditionalGeneration`, of any vision tower and any language model."""

    model_type = "llava"
    tower = "model.vision_tower"
    language = "model.language_model"
    connector = ("multi_modal_projector",)
    full_size: ClassVar[Configs] = {
        "llava15_7b": llava15_7b,
        "llava15_13b": llava15_13b,
        "tinyllava_stablelm": tinyllava_stablelm,
    }
    hub_configs: ClassVar[Configs] = {
        "openai/clip-vit-large-patch14-336": clip_l_336,
        "lmsys/vicuna-7b-v1.5": lambda: llava15_7b().text_config,
        "lmsys/vicuna-13b-v1.5": lambda: llava15_13b().text_config,
        "stabilityai/stablelm-2-zephyr-1_6b": lambda: tinyllava_stablelm().text_config,
    }
    hub_names: ClassVar[Mapping[str, str]] = {  # llava-hf's folders
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
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
        return model.model.multi_modal_projector(features).flatten(0, 1)

    def processor(
        self, folder: Path, changes: Mapping[str, Any] = MappingProxyType({})
    ) -> SquareImages:
        """Raises ValueError: nothing says whether its images are padded or cropped."""
        if not (folder / FILE).exists():
            raise ValueError(
                f"{folder} has no {FILE}: a LLaVA's own files do not say how it was trained to see "
                "images; assemble it (xmas.models.assembled), or write size and aspect there"
            )
        return SquareImages.load(folder, changes)

    def layout(self, config: Any, processor: Any, tokenizer: Any) -> Layout:
        literal = literal_of(tokenizer, config.image_token_id)
        return Fixed(config.image_seq_length, literal)

    def shape(self, config: Any, *, image_tokens: int | None = None, tiles: float = 1.0) -> Shape:
        return Shape.of(config, image_tokens=image_tokens, tiles=tiles)

    def hub_processor(
        self, config: Any, processor: SquareImages, tokenizer: Any, image: str
    ) -> Any:
        from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
        from transformers.models.llava.processing_llava import LlavaProcessor

        square = {"height": processor.size, "width": processor.size}
        images = LlavaImageProcessorPil(
            do_pad=processor.aspect == "pad",
            size={"shortest_edge": processor.size},
            crop_size=square,
            **processor.hub_normalisation,
        )
        return LlavaProcessor(
            images,
            tokenizer,
            patch_size=config.vision_config.patch_size,
            vision_feature_select_strategy=getattr(
                config, "vision_feature_select_strategy", "default"
            ),  # VipLlava's configuration has none
            num_additional_image_tokens=1,  # the class token, which `default` takes off
            image_token=image,
        )


FAMILIES = (Llava(),)
