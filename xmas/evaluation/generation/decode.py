"""Greedy decoding of many prompts: one by one as the papers do, or in a batch that never runs dry.

`alone` is LLaVA's loop: a prompt at a time, whole, through the model as it is. `Batch` is for
speed: what prompts share is run once (the system prompt, an image that several questions show), and
a finished row makes room for the next question while the others go on. Its answers are the same but
for rounding, which in half precision turns a token now and then.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from xmas.evaluation.generation.kv_cache import Slots
from xmas.evaluation.generation.prefill import (
    Shown,
    Start,
    best,
    by_source,
    causal,
    check_attention,
    device_of,
    embedded,
    look,
    passes,
    places,
    side_by_side,
)
from xmas.evaluation.generation.prompts import Group, Pictures, Prompt, blaming
from xmas.models.vlm import language_model

Answer = tuple[Prompt, list[int]]  # the tokens in front of the end mark
Pictured = tuple[Group, Pictures]
_TOWER_IMAGES = 32  # that pass the tower together
_REFILL = 0.25  # of the rows are idle before new questions come in


@torch.no_grad()
def alone(
    model: nn.Module, groups: Iterable[Pictured], *, max_new_tokens: int, eos: int
) -> Iterator[Answer]:
    """Answers one by one; an image passes the tower once, also for several questions.

    Raises GenerationError: a forward fails, or logits are not finite; names the question.
    """
    for group, pictures in groups:
        shown = Shown(pictures)
        for prompt in group.prompts:
            with blaming(prompt.name):
                look(model, [shown])
                written = _alone(model, prompt, shown, max_new_tokens, eos)
            yield prompt, written


def _alone(
    model: nn.Module, prompt: Prompt, shown: Shown, max_new_tokens: int, eos: int
) -> list[int]:
    language, device = language_model(model), device_of(model)
    ids = torch.from_numpy(prompt.ids)[None].to(device)
    inputs = embedded(model, ids, [] if shown.features is None else [shown])
    cache, written = DynamicCache(), []
    at = places(model, prompt.ids, shown)
    at = None if at is None else at[:, None].to(device)
    while True:
        hidden = language(
            inputs_embeds=inputs, position_ids=at, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        token = best(model, hidden, [prompt], [len(written)])[0]
        if token == eos:
            return written
        written.append(token)
        if len(written) == max_new_tokens:
            return written
        inputs = embedded(model, torch.tensor([[token]], device=device))
        at = None if at is None else at[..., -1:] + 1


@dataclasses.dataclass
class _Row:
    """A row in use: its prompt, how many tokens the cache holds of it, and what it has said."""

    prompt: Prompt
    length: int
    written: list[int]
    shift: int = 0  # of its new tokens from the cache's positions to the model's
    over: bool = False


class Batch:
    """A running batch of up to `rows` questions of `longest` tokens, which begin with `head`.

    Raises ValueError: the model attends in a way that no mask is made for here.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        rows: int,
        max_new_tokens: int,
        eos: int,
        head: Int[np.ndarray, " head"],
        longest: int,
    ) -> None:
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.eos = eos
        self._language = language_model(model)
        check_attention(self._language.config, longest + max_new_tokens)
        self._slots = Slots(rows)
        self._rows: list[_Row | None] = [None] * rows
        self._head = len(head)
        self._first: Slots | None = None
        if len(head):
            self._first = Slots(1)
            with torch.no_grad():
                start = Start(0, head, None, 0, 0, None, places(model, head, None))
                self._run(self._first, [start])

    @torch.no_grad()
    def answers(self, groups: Iterable[Pictured]) -> Iterator[Answer]:
        """Answers as they are finished.

        Raises GenerationError: a forward fails, or logits are not finite; names the question.
        """
        waiting = _waiting(groups)
        more = True
        while True:
            free = [place for place, row in enumerate(self._rows) if row is None]
            idle = len(free) == len(self._rows)
            if more and (idle or len(free) >= max(1, _REFILL * len(self._rows))):
                taken = list(itertools.islice(waiting, len(free)))
                more = len(taken) == len(free)
                with blaming(_names([prompt for prompt, _ in taken])):
                    self._admit(taken, free)
            elif idle:
                return
            else:
                with blaming(_names([row.prompt for row in self._rows if row is not None])):
                    self._step()
            yield from self._finished()
            if not more:
                self._shrink()

    def _admit(self, taken: Sequence[tuple[Prompt, Shown]], free: Sequence[int]) -> None:
        """Run the prompts of new questions into free rows and take their first tokens."""
        fresh = list(dict.fromkeys(shown for _, shown in taken if shown.pictures))
        firsts = {id(shown): prompt for prompt, shown in reversed(taken)}
        for first in range(0, len(fresh), _TOWER_IMAGES):
            look(self.model, fresh[first : first + _TOWER_IMAGES])
        self._openings([(firsts[id(shown)], shown) for shown in fresh if shown.several])
        starts = []
        for row, (prompt, shown) in zip(free, taken, strict=False):
            at = places(self.model, prompt.ids, shown)
            shift = 0 if at is None else int(at[0, -1]) + 1 - len(prompt.ids)
            self._rows[row] = _Row(prompt, len(prompt.ids), [], shift)
            behind = self._head if shown.cache is None else prompt.opening
            source = self._first if shown.cache is None else shown.cache
            seen = shown if shown.cache is None and shown.features is not None else None
            at = None if at is None else at[:, behind:]
            starts.append(Start(row, prompt.ids[behind:], source, shown.line, behind, seen, at))
        for some in passes(starts):
            hidden = self._run(self._slots, some)
            self._say(hidden, [start.row for start in some])

    def _openings(self, fresh: Sequence[tuple[Prompt, Shown]]) -> None:
        """Keys and values up to the end of each image, from which its prompts will go on."""
        starts = []
        for prompt, shown in fresh:
            span, at = slice(self._head, prompt.opening), places(self.model, prompt.ids, shown)
            at = None if at is None else at[:, span]
            starts.append(Start(0, prompt.ids[span], self._first, 0, self._head, shown, at))
        for some in passes(starts):
            cache = Slots(len(some))
            for line, start in enumerate(some):
                start.row = line
            self._run(cache, some)
            for start in some:
                assert start.shown is not None
                start.shown.cache, start.shown.line, start.shown.features = cache, start.row, None

    def _run(self, cache: Slots, starts: Sequence[Start]) -> Float[Tensor, "starts hidden"]:
        """The hidden state of the last token of each start, its keys and values now in `cache`."""
        for source, some in by_source(starts):
            lines, rows = [start.line for start in some], [start.row for start in some]
            cache.place(rows, source, lines, max(start.behind for start in some))
        device = device_of(self.model)
        width = max(len(start.ids) for start in starts)
        ids = np.zeros((len(starts), width), dtype=np.int64)
        for line, start in enumerate(starts):
            ids[line, : len(start.ids)] = start.ids
        last = torch.tensor([len(start.ids) - 1 for start in starts], device=device)
        at = torch.tensor([start.behind for start in starts])[:, None] + torch.arange(width)
        rows = torch.tensor([start.row for start in starts], device=device)
        shown = [start.shown for start in starts if start.shown is not None]
        inputs = embedded(self.model, torch.from_numpy(ids).to(device), shown)
        hidden = self._forward(cache, rows, at, inputs, side_by_side(starts, width))
        return hidden[torch.arange(len(starts), device=device), last]

    def _step(self) -> None:
        """One more token for every row; those without a question run along, unread."""
        device = device_of(self.model)
        said = [0 if row is None else row.written[-1] for row in self._rows]
        at = torch.tensor([0 if row is None else row.length for row in self._rows])[:, None]
        shift = torch.tensor([0 if row is None else row.shift for row in self._rows])[:, None]
        inputs = embedded(self.model, torch.tensor(said, device=device)[:, None])
        hidden = self._forward(self._slots, None, at, inputs, at + shift)
        busy = [place for place, row in enumerate(self._rows) if row is not None]
        for row in self._rows:
            if row is not None:
                row.length += 1
        self._say(hidden[:, 0][torch.tensor(busy, device=device)], busy)

    def _forward(
        self,
        cache: Slots,
        rows: Int[Tensor, " lines"] | None,
        at: Int[Tensor, "lines tokens"],
        inputs: Float[Tensor, "lines tokens hidden"],
        told: Int[Tensor, "*axes lines tokens"] | None,
    ) -> Float[Tensor, "lines tokens hidden"]:
        """A pass of these rows (None: all); their tokens stand at `at` in the cache, on the host.

        `told` is where the model is told that they stand, if not there.
        """
        upto = int(at.max()) + 1
        mask = causal(at, upto, inputs)
        at = at.to(inputs.device)
        told = at if told is None else told.to(inputs.device)
        cache.aim(rows, at, upto)
        return self._language(
            inputs_embeds=inputs,
            attention_mask=mask,
            position_ids=told,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    def _say(self, hidden: Float[Tensor, "rows hidden"], places: Sequence[int]) -> None:
        """Take the best next token of these rows."""
        rows = [row for row in (self._rows[place] for place in places) if row is not None]
        prompts = [row.prompt for row in rows]
        tokens = best(self.model, hidden, prompts, [len(row.written) for row in rows])
        for row, token in zip(rows, tokens, strict=True):
            if token != self.eos:
                row.written.append(token)
            row.over = token == self.eos or len(row.written) == self.max_new_tokens

    def _finished(self) -> Iterator[Answer]:
        for place, row in enumerate(self._rows):
            if row is not None and row.over:
                self._rows[place] = None
                yield row.prompt, row.written

    def _shrink(self) -> None:
        """At the end, with nothing left to come in: drop idle rows when half of them are."""
        busy = [place for place, row in enumerate(self._rows) if row is not None]
        if busy and len(busy) <= len(self._rows) // 2:
            self._slots.keep(busy)
            self._rows = [self._rows[place] for place in busy]


def _waiting(groups: Iterable[Pictured]) -> Iterator[tuple[Prompt, Shown]]:
    for group, pictures in groups:
        shown = Shown(pictures, several=len(group.prompts) > 1)
        yield from ((prompt, shown) for prompt in group.prompts)


def _names(prompts: Sequence[Prompt]) -> str:
    """For messages: what fails in a pass may be the fault of any of its prompts."""
    others = len(prompts) - 1
    name = prompts[0].name if prompts else "no question"
    return f"{name}, or one of the {others} in its batch," if others > 0 else name
