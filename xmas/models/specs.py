"""Configurations of published models, for building them at full size without their weights.

Numbers are those of the `config.json` of each repository on the hub.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from xmas.models.shape import ShapelessError
from xmas.models.sources import Source


def clip_l_336() -> PreTrainedConfig:
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


def llava15(width: int, feed_forward: int, layers: int, heads: int) -> PreTrainedConfig:
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


def llava15_7b() -> PreTrainedConfig:
    return llava15(4096, 11008, 32, 32)


def llava15_13b() -> PreTrainedConfig:
    return llava15(5120, 13824, 40, 40)


def tinyllava_stablelm() -> PreTrainedConfig:
    """StableLM-2-1.6B under CLIP-L/14-336, as the XMAS release puts them together.

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
        image_token_index=100351,  # any row behind the tokenizer's; `Assembled` takes the first
        image_seq_length=576,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def llava_onevision_05b() -> PreTrainedConfig:
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


def smolvlm_256m() -> PreTrainedConfig:
    """SigLIP-B/16-512, sixteen patches folded into a token, SmolLM2-135M with a head of its own.

    Source: HuggingFaceTB/SmolVLM-256M-Instruct.
    """
    from transformers import Idefics3Config, LlamaConfig

    return Idefics3Config(
        text_config=LlamaConfig(
            vocab_size=49280,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            head_dim=64,
            max_position_embeddings=8192,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
            pad_token_id=2,
        ),
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 512,
            "patch_size": 16,
        },
        scale_factor=4,
        image_token_id=49190,
    )


def qwen25_vl_3b() -> PreTrainedConfig:
    """A tower of windows at the pictures' own sizes and a Qwen2.5-3B, whose head is its embedding.

    Source: Qwen/Qwen2.5-VL-3B-Instruct.
    """
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "tokens_per_second": 2,
        },
        tie_word_embeddings=True,
    )


FULL_SIZE: Mapping[str, Callable[[], PreTrainedConfig]] = {
    "llava15_7b": llava15_7b,
    "llava15_13b": llava15_13b,
    "qwen25_vl_3b": qwen25_vl_3b,
    "tinyllava_stablelm": tinyllava_stablelm,
    "llava_onevision_05b": llava_onevision_05b,
    "smolvlm_256m": smolvlm_256m,
}


_HUB: Mapping[str, Callable[[], Any]] = {
    "stabilityai/stablelm-2-zephyr-1_6b": lambda: tinyllava_stablelm().text_config,
    "openai/clip-vit-large-patch14-336": clip_l_336,
    "lmsys/vicuna-7b-v1.5": lambda: llava15_7b().text_config,
    "lmsys/vicuna-13b-v1.5": lambda: llava15_13b().text_config,
    "Qwen/Qwen2.5-VL-3B-Instruct": qwen25_vl_3b,
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": llava_onevision_05b,
    "HuggingFaceTB/SmolVLM-256M-Instruct": smolvlm_256m,
}


def config_of(source: Source) -> Any:
    """The configuration of published weights, without a download: local, cached, or known here.

    Raises ShapelessError: none of these.
    """
    from transformers import AutoConfig

    if source.name in _HUB and not Path(source.name).expanduser().is_dir():
        return _HUB[source.name]()
    try:
        return AutoConfig.from_pretrained(
            source.name, revision=source.revision, local_files_only=True
        )
    except OSError as error:
        raise ShapelessError(f"{source.name}: no configuration on this machine") from error


def unbuilt(config: PreTrainedConfig) -> Any:
    """The model of a configuration on the meta device: shapes and no numbers."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)
