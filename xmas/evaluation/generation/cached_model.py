"""The language model of a VLM with a KV cache: prefill, and passes from cached positions."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from xmas.evaluation.generation.kv_cache import SlotCache
from xmas.evaluation.generation.prefill import (
    PrefillChunk,
    SharedImage,
    by_source,
    causal_mask,
    check_attention,
    check_cached,
    device_of,
    embed_inputs,
    padded_position_ids,
)
from xmas.evaluation.generation.prompts import Prompt
from xmas.models.language_inputs import LanguageInputs
from xmas.models.vlm import language_model


class CachedLanguageModel:
    """Reads and writes the slots of a `SlotCache`; lines of a batch differ in position and length.

    Args:
        model: the VLM, whose embeddings and language model are used.
        longest: tokens of the longest sequence, the answer included.

    Raises:
        ValueError: the model's attention has no mask here; see `check_attention`.
    """

    def __init__(self, model: nn.Module, longest: int) -> None:
        self._model = model
        self._language = language_model(model)
        check_cached(self._language.config)
        check_attention(self._language.config, longest)

    def prefill(
        self, cache: SlotCache, chunks: Sequence[PrefillChunk]
    ) -> Float[Tensor, "chunks hidden"]:
        """Write the keys and values of chunks into `cache`; the last token's hidden states."""
        for source, members in by_source(chunks):
            cache.copy_from(
                source,
                [chunk.source_slot for chunk in members],
                [chunk.slot for chunk in members],
                max(chunk.prefix for chunk in members),
            )
        device = device_of(self._model)
        width = max(len(chunk.ids) for chunk in chunks)
        ids = np.zeros((len(chunks), width), dtype=np.int64)
        for line, chunk in enumerate(chunks):
            ids[line, : len(chunk.ids)] = chunk.ids
        last = torch.tensor([len(chunk.ids) - 1 for chunk in chunks], device=device)
        positions = torch.tensor([chunk.prefix for chunk in chunks])[:, None] + torch.arange(width)
        slots = torch.tensor([chunk.slot for chunk in chunks], device=device)
        images = [chunk.image for chunk in chunks if chunk.image is not None]
        own = padded_position_ids(chunks, width)
        inputs = embed_inputs(
            self._model,
            torch.from_numpy(ids).to(device),
            images,
            positions=(positions if own is None else own).to(device),
        )
        hidden = self.forward(cache, slots, positions, inputs)
        return hidden[torch.arange(len(chunks), device=device), last]

    def prefill_whole(
        self, cache: SlotCache, slot: int, prompt: Prompt, image: SharedImage
    ) -> tuple[Float[Tensor, "1 hidden"], int]:
        """As `prefill`, of one prompt of a model that runs whole; and the shift from the cache's
        positions to the model's after it.
        """
        device, length = device_of(self._model), len(prompt.ids)
        ids = torch.from_numpy(prompt.ids)[None].to(device)
        inputs = embed_inputs(self._model, ids, [] if image.features is None else [image])
        places = torch.arange(length, device=device)[None]
        cache.prepare(torch.tensor([slot], device=device), places, length)
        hidden = self._language(
            **inputs.arguments, past_key_values=cache, use_cache=True
        ).last_hidden_state
        last = length - 1 if inputs.positions is None else int(inputs.positions[..., -1].max())
        return hidden[:, -1], last + 1 - length

    def forward(
        self,
        cache: SlotCache,
        slots: Int[Tensor, " lines"] | None,
        positions: Int[Tensor, "lines tokens"],
        inputs: LanguageInputs,
    ) -> Float[Tensor, "lines tokens hidden"]:
        """A forward pass of the language model.

        Args:
            slots: of the lines; None: all.
            positions: of the tokens in the cache, on the host.
        """
        return self.step(
            cache,
            slots,
            positions.to(inputs.embeddings.device),
            inputs,
            upto=int(positions.max()) + 1,
            alike=bool((positions == positions[:1]).all()),
        )

    def step(
        self,
        cache: SlotCache,
        slots: Int[Tensor, " lines"] | None,
        positions: Int[Tensor, "lines tokens"],
        inputs: LanguageInputs,
        *,
        upto: int,
        alike: bool,
    ) -> Float[Tensor, "lines tokens hidden"]:
        """A forward pass with everything on the device; nothing waits for it.

        Args:
            upto: no token attends to this position of the cache or a later one.
            alike: all lines have the same positions, so that one mask serves all.
        """
        mask = causal_mask(positions[:1] if alike else positions, upto, inputs.embeddings.dtype)
        if inputs.blocks is not None:
            mask = inputs.blocks.opened(mask, positions)
            inputs = dataclasses.replace(inputs, blocks=None)
        cache.prepare(slots, positions, upto)
        return self._language(
            **inputs.arguments,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
