"""Greedy decoding of one prompt at a time, as in the papers.

This is LLaVA's loop: one complete prompt through the unchanged model. `continuous_batch` is for
speed; its answers are the same except for rounding, which in half precision changes a token now and
then.
"""

import functools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from xmas.evaluation.generation.graphs import StepGraphs
from xmas.evaluation.generation.kv_cache import SequenceCache
from xmas.evaluation.generation.prefill import (
    SharedImage,
    check_cached,
    checked_tokens,
    device_of,
    embed_inputs,
    encode_images,
    greedy,
    position_ids,
)
from xmas.evaluation.generation.prompts import ImageInputs, Prompt, PromptGroup, naming_errors
from xmas.models.language_inputs import LanguageInputs
from xmas.models.vlm import language_model, runs_whole

Answer = tuple[Prompt, list[int]]  # the generated tokens before the end-of-sequence token
LoadedGroup = tuple[PromptGroup, ImageInputs]


@torch.no_grad()
def decode_singly(
    model: nn.Module,
    groups: Iterable[LoadedGroup],
    *,
    max_new_tokens: int,
    eos: int,
    graphs: bool = True,
) -> Iterator[Answer]:
    """Answers one by one; an image passes the tower once, also for several questions.

    Args:
        max_new_tokens: per answer.
        eos: the end-of-sequence token.
        graphs: replay decode steps as CUDA graphs on a GPU: the same tokens, sooner.

    Raises GenerationError: a forward pass fails, or logits are not finite; names the question.
    """
    decoder = _Decoder(model, max_new_tokens, eos, graphs)
    for group, inputs in groups:
        image = SharedImage(inputs)
        for prompt in group.prompts:
            with naming_errors(prompt.name):
                encode_images(model, [image])
                tokens = decoder.answer(prompt, image)
            yield prompt, tokens


class _Decoder:
    """Answers prompts with one KV cache; what a decode step reads and writes stays in place."""

    def __init__(self, model: nn.Module, max_new_tokens: int, eos: int, graphs: bool) -> None:
        self._model, self._language = model, language_model(model)
        check_cached(self._language.config)
        self._max_new_tokens, self._eos = max_new_tokens, eos
        self._device = device_of(model)
        self._graphs = StepGraphs(self._device, enabled=graphs and not runs_whole(model))
        self._cache = SequenceCache(0)
        self._token = torch.zeros((1, 1), dtype=torch.long, device=self._device)
        self._greedy = torch.zeros((2, 1), dtype=torch.long, device=self._device)
        self._position: Tensor | None = None  # of the last token, where the model has its own

    def answer(self, prompt: Prompt, image: SharedImage) -> list[int]:
        self._prefill(prompt, image)
        tokens = []
        while True:
            token = checked_tokens(self._greedy, [prompt], [len(tokens)])[0]
            if token == self._eos:
                return tokens
            tokens.append(token)
            if len(tokens) == self._max_new_tokens:
                return tokens
            length = len(prompt.ids) + len(tokens) - 1
            self._graphs.run(length, functools.partial(self._step, length))

    def _prefill(self, prompt: Prompt, image: SharedImage) -> None:
        positions = len(prompt.ids) + self._max_new_tokens
        if positions > self._cache.positions:  # the longest prompts come first
            self._graphs.clear()
            self._cache = SequenceCache(positions)
        self._cache.begin_at(0)
        ids = torch.from_numpy(prompt.ids)[None].to(self._device)
        images = [] if image.features is None else [image]
        own = position_ids(self._model, prompt.ids, image)
        if own is not None:
            own = own[:, None].to(self._device)
        inputs = embed_inputs(self._model, ids, images, positions=own)
        self._forward(inputs)
        own = inputs.positions
        if own is None:
            self._position = None
            return
        if self._position is None:
            self._position = torch.empty_like(own[..., -1:])
        self._position.copy_(own[..., -1:])

    def _step(self, length: int) -> None:
        """One decode step with `length` cached positions."""
        self._cache.begin_at(length)
        if self._position is not None:
            self._position.add_(1)
        self._forward(embed_inputs(self._model, self._token, positions=self._position))

    def _forward(self, inputs: LanguageInputs) -> None:
        """A pass of the language model; the token that follows the last one, for the next pass."""
        hidden = self._language(
            **inputs.arguments, past_key_values=self._cache, use_cache=True
        ).last_hidden_state[:, -1]
        self._greedy.copy_(greedy(self._model, hidden))
        self._token.copy_(self._greedy[:1])
