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
from transformers import DynamicCache, PreTrainedConfig

from xmas.attention.prefix import can_be_shared
from xmas.bench.prompts import GenerationError, Group, Pictures, Prompt
from xmas.bench.slots import Slots
from xmas.llava import bare, embed, language_model, tower_features

Answer = tuple[Prompt, list[int]]  # the tokens in front of the end mark
Pictured = tuple[Group, Pictures]
_PASS_TOKENS = 8192  # of prompts in one forward, pads counted
_TOWER_IMAGES = 32  # that pass the tower together
_REFILL = 0.25  # of the rows are idle before new questions come in


@torch.no_grad()
def alone(
    model: nn.Module, groups: Iterable[Pictured], *, max_new_tokens: int, eos: int
) -> Iterator[Answer]:
    """Answers one by one; an image passes the tower once, also for several questions.

    Raises GenerationError: logits are not finite.
    """
    language, device = language_model(model), _device(model)
    for group, pictures in groups:
        shown = _Shown(pictures)
        _look(model, [shown])
        for prompt in group.prompts:
            cache, written = DynamicCache(), []
            ids = torch.from_numpy(prompt.ids)[None].to(device)
            inputs = embed(model, ids, shown.features, shown.sizes)
            while True:
                hidden = language(
                    inputs_embeds=inputs, past_key_values=cache, use_cache=True
                ).last_hidden_state[:, -1]
                token = _best(model, hidden, [prompt], [len(written)])[0]
                if token != eos:
                    written.append(token)
                if token == eos or len(written) == max_new_tokens:
                    break
                inputs = _embedded(model, torch.tensor([[token]], device=device))
            yield prompt, written


@dataclasses.dataclass(eq=False)
class _Shown:
    """What the prompts of a group show: pictures, then their features, then keys and values."""

    pictures: Pictures
    several: bool = False  # prompts go on from it
    features: Tensor | None = None
    sizes: Tensor | None = None
    cache: Slots | None = None
    line: int = 0  # of the cache


@dataclasses.dataclass
class _Start:
    """Tokens that go on from a line of a cache, on their way into a row."""

    row: int
    ids: Int[np.ndarray, " tokens"]
    source: Slots | None
    line: int
    behind: int  # positions of the source that they stand behind
    shown: _Shown | None  # whose features replace the image tokens among them


@dataclasses.dataclass
class _Row:
    """A row in use: its prompt, how many tokens the cache holds of it, and what it has said."""

    prompt: Prompt
    length: int
    written: list[int]
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
        _check_attention(self._language.config, longest + max_new_tokens)
        self._slots = Slots(rows)
        self._rows: list[_Row | None] = [None] * rows
        self._head = len(head)
        self._first: Slots | None = None
        if len(head):
            self._first = Slots(1)
            with torch.no_grad():
                self._run(self._first, [_Start(0, head, None, 0, 0, None)])

    @torch.no_grad()
    def answers(self, groups: Iterable[Pictured]) -> Iterator[Answer]:
        """Answers as they are finished. Raises GenerationError: logits are not finite."""
        waiting = _waiting(groups)
        more = True
        while True:
            free = [place for place, row in enumerate(self._rows) if row is None]
            idle = len(free) == len(self._rows)
            if more and (idle or len(free) >= max(1, _REFILL * len(self._rows))):
                taken = list(itertools.islice(waiting, len(free)))
                more = len(taken) == len(free)
                self._admit(taken, free)
            elif idle:
                return
            else:
                self._step()
            yield from self._finished()
            if not more:
                self._shrink()

    def _admit(self, taken: Sequence[tuple[Prompt, _Shown]], free: Sequence[int]) -> None:
        """Run the prompts of new questions into free rows and take their first tokens."""
        fresh = list(dict.fromkeys(shown for _, shown in taken if shown.pictures))
        firsts = {id(shown): prompt for prompt, shown in reversed(taken)}
        for first in range(0, len(fresh), _TOWER_IMAGES):
            _look(self.model, fresh[first : first + _TOWER_IMAGES])
        self._openings([(firsts[id(shown)], shown) for shown in fresh if shown.several])
        starts = []
        for row, (prompt, shown) in zip(free, taken, strict=False):
            self._rows[row] = _Row(prompt, len(prompt.ids), [])
            behind = self._head if shown.cache is None else prompt.opening
            source = self._first if shown.cache is None else shown.cache
            seen = shown if shown.cache is None and shown.features is not None else None
            starts.append(_Start(row, prompt.ids[behind:], source, shown.line, behind, seen))
        for some in _passes(starts):
            hidden = self._run(self._slots, some)
            self._say(hidden, [start.row for start in some])

    def _openings(self, fresh: Sequence[tuple[Prompt, _Shown]]) -> None:
        """Keys and values up to the end of each image, from which its prompts will go on."""
        starts = [
            _Start(0, prompt.ids[self._head : prompt.opening], self._first, 0, self._head, shown)
            for prompt, shown in fresh
        ]
        for some in _passes(starts):
            cache = Slots(len(some))
            for line, start in enumerate(some):
                start.row = line
            self._run(cache, some)
            for start in some:
                assert start.shown is not None
                start.shown.cache, start.shown.line, start.shown.features = cache, start.row, None

    def _run(self, cache: Slots, starts: Sequence[_Start]) -> Float[Tensor, "starts hidden"]:
        """The hidden state of the last token of each start, its keys and values now in `cache`."""
        for source, some in _by_source(starts):
            lines, rows = [start.line for start in some], [start.row for start in some]
            cache.place(rows, source, lines, max(start.behind for start in some))
        device = _device(self.model)
        width = max(len(start.ids) for start in starts)
        ids = np.zeros((len(starts), width), dtype=np.int64)
        for line, start in enumerate(starts):
            ids[line, : len(start.ids)] = start.ids
        last = torch.tensor([len(start.ids) - 1 for start in starts], device=device)
        at = torch.tensor([start.behind for start in starts])[:, None] + torch.arange(width)
        rows = torch.tensor([start.row for start in starts], device=device)
        shown = [start.shown for start in starts if start.shown is not None]
        hidden = self._forward(
            cache, rows, at, _embedded(self.model, torch.from_numpy(ids).to(device), shown)
        )
        return hidden[torch.arange(len(starts), device=device), last]

    def _step(self) -> None:
        """One more token for every row; those without a question run along, unread."""
        device = _device(self.model)
        said = [0 if row is None else row.written[-1] for row in self._rows]
        at = torch.tensor([0 if row is None else row.length for row in self._rows])
        ids = torch.tensor(said, device=device)
        hidden = self._forward(self._slots, None, at[:, None], _embedded(self.model, ids[:, None]))
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
    ) -> Float[Tensor, "lines tokens hidden"]:
        """A pass of these rows (None: all) whose tokens stand at the positions `at`, on the host."""
        upto = int(at.max()) + 1
        mask = _causal(at, upto, inputs)
        at = at.to(inputs.device)
        cache.aim(rows, at, upto)
        return self._language(
            inputs_embeds=inputs,
            attention_mask=mask,
            position_ids=at,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    def _say(self, hidden: Float[Tensor, "rows hidden"], places: Sequence[int]) -> None:
        """Take the best next token of these rows."""
        rows = [row for row in (self._rows[place] for place in places) if row is not None]
        prompts = [row.prompt for row in rows]
        tokens = _best(self.model, hidden, prompts, [len(row.written) for row in rows])
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


def _waiting(groups: Iterable[Pictured]) -> Iterator[tuple[Prompt, _Shown]]:
    for group, pictures in groups:
        shown = _Shown(pictures, several=len(group.prompts) > 1)
        yield from ((prompt, shown) for prompt in group.prompts)


def _passes(starts: Sequence[_Start]) -> Iterator[list[_Start]]:
    """Starts of one kind and of similar length, as many as one forward takes."""

    def kind(start: _Start) -> tuple[int, int]:
        return start.behind, len(start.ids)

    some: list[_Start] = []
    for start in sorted(starts, key=kind):
        alike = not some or (start.behind == some[0].behind)
        if some and not (alike and (len(some) + 1) * len(start.ids) <= _PASS_TOKENS):
            yield some
            some = []
        some.append(start)
    if some:
        yield some


def _by_source(starts: Sequence[_Start]) -> Iterator[tuple[Slots, list[_Start]]]:
    found: dict[int, tuple[Slots, list[_Start]]] = {}
    for start in starts:
        if start.source is not None:
            found.setdefault(id(start.source), (start.source, []))[1].append(start)
    yield from found.values()


def _embedded(
    model: nn.Module, ids: Int[Tensor, "lines tokens"], shown: Sequence[_Shown] = ()
) -> Float[Tensor, "lines tokens hidden"]:
    """Embeddings, the features of `shown` in place of the image tokens."""
    if not shown:
        return bare(model).get_input_embeddings()(ids)
    features = torch.cat([one.features for one in shown if one.features is not None])
    sizes = [one.sizes for one in shown if one.sizes is not None]
    return embed(model, ids, features, torch.cat(sizes) if sizes else None)


def _causal(
    at: Int[Tensor, "lines tokens"], upto: int, like: Tensor
) -> Float[Tensor, "masks 1 tokens upto"]:
    """What every token sees, itself and all before it in its row, as zeros to add; else -inf."""
    if bool((at == at[:1]).all()):
        at = at[:1]  # one mask for all lines
    hidden = torch.arange(upto) > at[..., None]
    mask = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))[:, None]
    return mask.to(like.device, like.dtype)


def _look(model: nn.Module, some: Sequence[_Shown]) -> None:
    """Pictures through the tower, once."""
    some = [shown for shown in some if shown.pictures]
    if not some:
        return
    first = next(model.parameters())
    tiles = [len(shown.pictures["pixels"]) for shown in some]
    pixels = torch.cat([shown.pictures["pixels"] for shown in some])
    features = tower_features(model, pixels.to(first.device, first.dtype)).split(tiles)
    for shown, found in zip(some, features, strict=True):
        shown.features, shown.sizes, shown.pictures = found, shown.pictures.get("sizes"), {}


def _best(
    model: nn.Module,
    hidden: Float[Tensor, "rows hidden"],
    prompts: Sequence[Prompt],
    written: Sequence[int],
) -> list[int]:
    """The token with the largest logit, for each row; the first of several that are equal."""
    logits = bare(model).lm_head(hidden).float()
    found = torch.stack([logits.argmax(dim=-1), logits.isfinite().all(dim=-1).long()]).tolist()
    for prompt, count, finite in zip(prompts, written, found[1], strict=True):
        if not finite:
            raise GenerationError(
                f"{prompt.name}: the logits of new token {count + 1} are not finite; the model or "
                "the precision is at fault (try generation.precision=bfloat16 or float32)"
            )
    return found[0]


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _check_attention(config: PreTrainedConfig, longest: int) -> None:
    how = config._attn_implementation
    if how not in ("sdpa", "eager") or not can_be_shared(config, longest):
        raise ValueError(
            f"a {config.model_type} with {how} attention, {longest} tokens a row: a batch needs sdpa "
            "or eager and layers that see everything before; set generation.batch=1"
        )
