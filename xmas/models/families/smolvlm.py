"""SmolVLM2: Idefics3's parts under a class of another name.

SmolVLM-256M is an Idefics3, SmolVLM2 is not.
"""

from typing import Any, ClassVar

from xmas.models.families.idefics3 import SIGLIP_B_512, Idefics3, smollm2

SIGLIP_SO400M_384 = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}


def smolvlm2_500m() -> Any:
    """SigLIP-B/16-512, sixteen patches folded into a token, SmolLM2-360M.

    Source: HuggingFaceTB/SmolVLM2-500M-Video-Instruct.
    """
    from transformers import SmolVLMConfig

    return SmolVLMConfig(
        text_config=smollm2(960, 2560, 32, 15, 5),
        vision_config=SIGLIP_B_512,
        scale_factor=4,
        image_token_id=49190,
    )


def smolvlm2_2b() -> Any:
    """SigLIP-SO400M/14-384, nine patches folded into a token, SmolLM2-1.7B.

    Source: HuggingFaceTB/SmolVLM2-2.2B-Instruct.
    """
    from transformers import SmolVLMConfig

    text = smollm2(2048, 8192, 24, 32, 32, positions=16384, theta=273768.0)
    return SmolVLMConfig(
        text_config=text, vision_config=SIGLIP_SO400M_384, scale_factor=3, image_token_id=49190
    )


class SmolVlm(Idefics3):
    """`SmolVLMForConditionalGeneration`.

    transformers' own processor asks for packages that only videos need (torchvision, num2words), so
    that of Idefics3 is written under its name: to images they do the same.
    """

    hub_class: ClassVar[str] = "SmolVLMProcessor"
    video_processor: ClassVar[str] = "SmolVLMVideoProcessor"


FAMILIES = (
    SmolVlm(
        "smolvlm",
        "SmolVLMImageProcessorPil",
        full_size={"smolvlm2_500m": smolvlm2_500m, "smolvlm2_2b": smolvlm2_2b},
        hub_configs={
            "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": smolvlm2_500m,
            "HuggingFaceTB/SmolVLM2-2.2B-Instruct": smolvlm2_2b,
        },
    ),
)
