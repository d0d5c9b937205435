"""Greedy decoding of one prompt at a time, as in the papers.

This is LLaVA's loop: one complete prompt through the unchanged model. `continuous_batch` is for
speed; its answers are the same except for rounding, which in half precision changes a token now and
then.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import nn
from transformers import DynamicCache

from xmas.evaluation.generation.prefill import (
    SharedImage,
    device_of,
    embed_inputs,
    encode_images,
    greedy_tokens,
    position_ids,
)
from xmas.evaluation.generation.prompts import ImageInputs, Prompt, PromptGroup, naming_errors
from xmas.models.vlm import language_model

Answer = tuple[Prompt, list[int]]  # the generated tokens before the end-of-sequence token
LoadedGroup = tuple[PromptGroup, ImageInputs]


@torch.no_grad()
def decode_singly(
    model: nn.Module, groups: Iterable[LoadedGroup], *, max_new_tokens: int, eos: int
) -> Iterator[Answer]:
    """Answers one by one; an image passes the tower once, also for several questions.

    Raises GenerationError: a forward pass fails, or logits are not finite; names the question.
    """
    for group, inputs in groups:
        image = SharedImage(inputs)
        for prompt in group.prompts:
            with naming_errors(prompt.name):
                encode_images(model, [image])
                tokens = _decode(model, prompt, image, max_new_tokens, eos)
            yield prompt, tokens


def _decode(
    model: nn.Module, prompt: Prompt, image: SharedImage, max_new_tokens: int, eos: int
) -> list[int]:
    language, device = language_model(model), device_of(model)
    ids = torch.from_numpy(prompt.ids)[None].to(device)
    inputs = embed_inputs(model, ids, [] if image.features is None else [image])
    cache, tokens = DynamicCache(), []
    positions = position_ids(model, prompt.ids, image)
    positions = None if positions is None else positions[:, None].to(device)
    while True:
        hidden = language(
            inputs_embeds=inputs, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        token = greedy_tokens(model, hidden, [prompt], [len(tokens)])[0]
        if token == eos:
            return tokens
        tokens.append(token)
        if len(tokens) == max_new_tokens:
            return tokens
        inputs = embed_inputs(model, torch.tensor([[token]], device=device))
        positions = None if positions is None else positions[..., -1:] + 1
