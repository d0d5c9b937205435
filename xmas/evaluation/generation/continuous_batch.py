"""Continuous batching: a finished sequence gives its slot to the next question.

A shared prefix is prefilled once: the system prompt, and an image that several questions show.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from xmas.evaluation.generation.cached_model import CachedLanguageModel
from xmas.evaluation.generation.decode import Answer, LoadedGroup
from xmas.evaluation.generation.graphs import StepGraphs
from xmas.evaluation.generation.kv_cache import SlotCache
from xmas.evaluation.generation.prefill import (
    PrefillChunk,
    SharedImage,
    checked_tokens,
    device_of,
    embed_inputs,
    encode_images,
    greedy,
    position_ids,
    prefill_batches,
)
from xmas.evaluation.generation.prompts import Prompt, naming_errors
from xmas.models.vlm import runs_whole


@dataclasses.dataclass
class _Sequence:
    """A question in a slot: its prompt, its length in the cache, and its generated tokens."""

    prompt: Prompt
    length: int
    tokens: list[int]
    shift: int = 0  # from the cache's positions of new tokens to the model's position ids
    finished: bool = False


class ContinuousBatch:
    """Decodes up to `slots` questions at a time.

    Args:
        slots: sequences that are decoded together.
        max_new_tokens: per answer.
        eos: the end-of-sequence token.
        prefix: token ids with which every prompt begins, see `shared_prefix`.
        longest: tokens of the longest prompt.
        pass_tokens: of prompts in one forward pass, padding included.
        images_per_pass: images in one forward pass of the vision tower.
        refill: share of the slots that are free before new questions are prefilled.
        cache_growth: positions by which a full KV cache grows.
        graphs: replay decode steps as CUDA graphs on a GPU: the same tokens, sooner.

    Raises:
        ValueError: the model's attention has no mask here; see `check_attention`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        slots: int,
        max_new_tokens: int,
        eos: int,
        prefix: Int[np.ndarray, " prefix"],
        longest: int,
        pass_tokens: int = 8192,
        images_per_pass: int = 32,
        refill: float = 0.25,
        cache_growth: int = 64,
        graphs: bool = True,
    ) -> None:
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.eos = eos
        self.pass_tokens = pass_tokens
        self.images_per_pass = images_per_pass
        self.refill = refill
        self.cache_growth = cache_growth
        self._language = CachedLanguageModel(model, longest + max_new_tokens)
        self._cache = self._new_cache(slots)
        self._sequences: list[_Sequence | None] = [None] * slots
        self._whole = runs_whole(model)
        self._graphs = StepGraphs(device_of(model), enabled=graphs and not self._whole)
        self._moves = -1  # of the cache when the graphs were captured
        self._inputs = torch.zeros(0)  # tokens, positions and the model's position ids of all slots
        self._hidden: Tensor | None = None  # states of all slots after the last step
        prefix = prefix[:0] if self._whole else prefix
        self._prefix_length = len(prefix)
        self._prefix_cache: SlotCache | None = None
        if len(prefix):
            self._prefix_cache = self._new_cache(1)
            with torch.no_grad():
                positions = position_ids(model, prefix, None)
                chunk = PrefillChunk(0, prefix, None, 0, 0, None, positions)
                self._language.prefill(self._prefix_cache, [chunk])

    def _new_cache(self, slots: int) -> SlotCache:
        return SlotCache(slots, growth=self.cache_growth)

    @torch.no_grad()
    def answers(self, groups: Iterable[LoadedGroup]) -> Iterator[Answer]:
        """Answers in the order in which they are finished.

        Raises GenerationError: a forward pass fails, or logits are not finite; names the question.
        """
        queue = _queue(groups)
        more = True
        while True:
            free = [slot for slot, sequence in enumerate(self._sequences) if sequence is None]
            idle = len(free) == len(self._sequences)
            if more and (idle or len(free) >= max(1, self.refill * len(self._sequences))):
                admitted = list(itertools.islice(queue, len(free)))
                more = len(admitted) == len(free)
                with naming_errors(_names([prompt for prompt, _ in admitted])):
                    self._admit(admitted, free)
            elif idle:
                return
            else:
                active = [sequence for sequence in self._sequences if sequence is not None]
                with naming_errors(_names([sequence.prompt for sequence in active])):
                    self._decode_step()
            yield from self._finished()
            if not more:
                self._shrink()

    def _admit(self, questions: Sequence[tuple[Prompt, SharedImage]], free: Sequence[int]) -> None:
        """Prefill the prompts of new questions into free slots and take their first tokens."""
        new = list(dict.fromkeys(image for _, image in questions if image.inputs))
        prompts = {id(image): prompt for prompt, image in reversed(questions)}
        for first in range(0, len(new), self.images_per_pass):
            encode_images(self.model, new[first : first + self.images_per_pass])
        if self._whole:
            self._admit_whole(questions, free)
            return
        self._prefill_images([(prompts[id(image)], image) for image in new if image.reused])
        chunks = []
        for slot, (prompt, image) in zip(free, questions, strict=False):
            positions = position_ids(self.model, prompt.ids, image)
            shift = 0 if positions is None else int(positions[0, -1]) + 1 - len(prompt.ids)
            self._sequences[slot] = _Sequence(prompt, len(prompt.ids), [], shift)
            cached = image.cache is not None
            prefix = prompt.up_to_image_end if cached else self._prefix_length
            chunk = PrefillChunk(
                slot=slot,
                ids=prompt.ids[prefix:],
                source=image.cache if cached else self._prefix_cache,
                source_slot=image.slot,
                prefix=prefix,
                image=image if not cached and image.features is not None else None,
                position_ids=None if positions is None else positions[:, prefix:],
            )
            chunks.append(chunk)
        for batch in prefill_batches(chunks, self.pass_tokens):
            hidden = self._language.prefill(self._cache, batch)
            self._take_tokens(hidden, [chunk.slot for chunk in batch])

    def _admit_whole(
        self, questions: Sequence[tuple[Prompt, SharedImage]], free: Sequence[int]
    ) -> None:
        """As `_admit`, of a model that runs whole: one prompt at a time, which share nothing."""
        for slot, (prompt, image) in zip(free, questions, strict=False):
            hidden, shift = self._language.prefill_whole(self._cache, slot, prompt, image)
            self._sequences[slot] = _Sequence(prompt, len(prompt.ids), [], shift)
            self._take_tokens(hidden, [slot])

    def _prefill_images(self, images: Sequence[tuple[Prompt, SharedImage]]) -> None:
        """Cache the keys and values up to the end of each image, for all its prompts."""
        chunks = []
        for prompt, image in images:
            span = slice(self._prefix_length, prompt.up_to_image_end)
            positions = position_ids(self.model, prompt.ids, image)
            positions = None if positions is None else positions[:, span]
            chunks.append(
                PrefillChunk(
                    slot=0,
                    ids=prompt.ids[span],
                    source=self._prefix_cache,
                    source_slot=0,
                    prefix=self._prefix_length,
                    image=image,
                    position_ids=positions,
                )
            )
        for batch in prefill_batches(chunks, self.pass_tokens):
            cache = self._new_cache(len(batch))
            for slot, chunk in enumerate(batch):
                chunk.slot = slot
            self._language.prefill(cache, batch)
            for chunk in batch:
                assert chunk.image is not None
                chunk.image.cache, chunk.image.slot, chunk.image.features = cache, chunk.slot, None

    def _decode_step(self) -> None:
        """Generate one more token in every slot; the outputs of free slots are ignored."""
        sequences = self._sequences
        last = [0 if sequence is None else sequence.tokens[-1] for sequence in sequences]
        lengths = [0 if sequence is None else sequence.length for sequence in sequences]
        shifted = [0 if one is None else one.length + one.shift for one in sequences]
        inputs = torch.tensor([last, lengths, shifted])
        upto, alike = max(lengths) + 1, len(set(lengths)) == 1
        self._cache.reserve(upto)
        if self._cache.moves == self._moves:
            self._inputs.copy_(inputs, non_blocking=True)
        else:
            self._graphs.clear()
            self._moves = self._cache.moves
            self._inputs, self._hidden = inputs.to(device_of(self.model)), None
        self._graphs.run((upto, alike), functools.partial(self._step, upto, alike))
        active = [slot for slot, sequence in enumerate(sequences) if sequence is not None]
        for sequence in sequences:
            if sequence is not None:
                sequence.length += 1
        assert self._hidden is not None
        lines = torch.tensor(active).to(self._hidden.device, non_blocking=True)
        self._take_tokens(self._hidden[lines], active)

    def _step(self, upto: int, alike: bool) -> None:
        """The pass of a decode step over all slots, from `_inputs` to `_hidden`."""
        tokens, positions, own = self._inputs[..., None]
        inputs = embed_inputs(self.model, tokens, positions=own)
        hidden = self._language.step(self._cache, None, positions, inputs, upto=upto, alike=alike)[
            :, 0
        ]
        if self._hidden is None:
            self._hidden = torch.empty_like(hidden)
        self._hidden.copy_(hidden)

    def _take_tokens(self, hidden: Float[Tensor, "lines hidden"], slots: Sequence[int]) -> None:
        """Append the greedy token of these slots to their sequences."""
        sequences = [
            sequence
            for sequence in (self._sequences[slot] for slot in slots)
            if sequence is not None
        ]
        prompts = [sequence.prompt for sequence in sequences]
        lengths = [len(sequence.tokens) for sequence in sequences]
        tokens = checked_tokens(greedy(self.model, hidden), prompts, lengths)
        for sequence, token in zip(sequences, tokens, strict=True):
            if token != self.eos:
                sequence.tokens.append(token)
            sequence.finished = token == self.eos or len(sequence.tokens) == self.max_new_tokens

    def _finished(self) -> Iterator[Answer]:
        """Free the slots of finished sequences and yield their answers."""
        for slot, sequence in enumerate(self._sequences):
            if sequence is not None and sequence.finished:
                self._sequences[slot] = None
                yield sequence.prompt, sequence.tokens

    def _shrink(self) -> None:
        """Once no question waits, drop the free slots whenever half of all are free."""
        active = [slot for slot, sequence in enumerate(self._sequences) if sequence is not None]
        if active and len(active) <= len(self._sequences) // 2:
            self._cache.keep(active)
            self._sequences = [self._sequences[slot] for slot in active]


def _queue(groups: Iterable[LoadedGroup]) -> Iterator[tuple[Prompt, SharedImage]]:
    for group, inputs in groups:
        image = SharedImage(inputs, reused=len(group.prompts) > 1)
        yield from ((prompt, image) for prompt in group.prompts)


def _names(prompts: Sequence[Prompt]) -> str:
    """For messages: a failed pass may be the fault of any of its prompts."""
    others = len(prompts) - 1
    name = prompts[0].name if prompts else "no question"
    return f"{name}, or one of the {others} in its batch," if others > 0 else name
