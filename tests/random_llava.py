"""A LLaVA of random weights and prompts of token ids: what generation needs, without any file."""

import numpy as np
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from xmas.evaluation.generation.decode import LoadedGroup
from xmas.evaluation.generation.prompts import Prompt, PromptGroup

VOCABULARY, IMAGE_TOKENS, FRONT = 331, 9, 5
EOS = VOCABULARY  # no token: every answer has the greatest length


def random_llava(layers: int = 3) -> LlavaForConditionalGeneration:
    """With weights so large that answers differ."""
    text = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=48, intermediate_size=80, num_hidden_layers=layers,
        num_attention_heads=3,
    )  # fmt: skip
    tower = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        image_size=42, patch_size=14,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            text_config=text,
            vision_config=tower,
            image_token_id=VOCABULARY - 1,
            image_seq_length=IMAGE_TOKENS,
        )
    ).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and ("language_model" in name or "projector" in name):
            parameter.data.normal_(0, 0.3)
    return model


def random_groups(texts: list[int]) -> list[LoadedGroup]:
    """One question about each of several images, with this many tokens of text."""
    rng = np.random.default_rng(0)
    front = rng.integers(3, VOCABULARY - 1, FRONT)
    groups = []
    for position, text in enumerate(texts):
        image = np.full(IMAGE_TOKENS, VOCABULARY - 1)
        ids = np.concatenate([front, image, rng.integers(3, VOCABULARY - 1, text)])
        prompt = Prompt(position, str(position), ids, FRONT, FRONT + IMAGE_TOKENS)
        pixels = torch.randn(1, 3, 42, 42, generator=torch.Generator().manual_seed(position))
        groups.append((PromptGroup(str(position).encode(), (prompt,)), {"pixels": pixels}))
    return groups
