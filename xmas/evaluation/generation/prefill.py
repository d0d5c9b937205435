"""What goes through a model together while it answers: pictures, prompts, the next tokens."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig

from xmas.attention.prefix import can_be_shared
from xmas.evaluation.generation.kv_cache import Slots
from xmas.evaluation.generation.prompts import GenerationError, Pictures, Prompt
from xmas.models.vlm import embed, positions_of, tower_features, unwrap

_PASS_TOKENS = 8192  # of prompts in one forward, pads counted


@dataclasses.dataclass(eq=False)
class Shown:
    """What the prompts of a group show: pictures, then their features, then keys and values."""

    pictures: Pictures
    several: bool = False  # prompts go on from it
    features: Tensor | None = None
    sizes: Tensor | None = None
    cache: Slots | None = None
    line: int = 0  # of the cache


@dataclasses.dataclass
class Start:
    """Tokens that go on from a line of a cache, on their way into a row."""

    row: int
    ids: Int[np.ndarray, " tokens"]
    source: Slots | None
    line: int
    behind: int  # positions of the source that they stand behind
    shown: Shown | None  # whose features replace the image tokens among them
    at: Int[Tensor, "axes tokens"] | None = None  # where the model is told that they stand


def passes(starts: Sequence[Start]) -> Iterator[list[Start]]:
    """Starts of one kind and of similar length, as many as one forward takes."""

    def kind(start: Start) -> tuple[int, int]:
        return start.behind, len(start.ids)

    some: list[Start] = []
    for start in sorted(starts, key=kind):
        alike = not some or (start.behind == some[0].behind)
        if some and not (alike and (len(some) + 1) * len(start.ids) <= _PASS_TOKENS):
            yield some
            some = []
        some.append(start)
    if some:
        yield some


def by_source(starts: Sequence[Start]) -> Iterator[tuple[Slots, list[Start]]]:
    found: dict[int, tuple[Slots, list[Start]]] = {}
    for start in starts:
        if start.source is not None:
            found.setdefault(id(start.source), (start.source, []))[1].append(start)
    yield from found.values()


def embedded(
    model: nn.Module, ids: Int[Tensor, "lines tokens"], shown: Sequence[Shown] = ()
) -> Float[Tensor, "lines tokens hidden"]:
    """Embeddings, the features of `shown` in place of the image tokens."""
    if not shown:
        return unwrap(model).get_input_embeddings()(ids)
    features = torch.cat([one.features for one in shown if one.features is not None])
    sizes = [one.sizes for one in shown if one.sizes is not None]
    return embed(model, ids, features, torch.cat(sizes) if sizes else None)


def causal(
    at: Int[Tensor, "lines tokens"], upto: int, like: Tensor
) -> Float[Tensor, "masks 1 tokens upto"]:
    """What every token sees, itself and all before it in its row, as zeros to add; else -inf."""
    if bool((at == at[:1]).all()):
        at = at[:1]  # one mask for all lines
    hidden = torch.arange(upto) > at[..., None]
    mask = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))[:, None]
    return mask.to(like.device, like.dtype)


def look(model: nn.Module, some: Sequence[Shown]) -> None:
    """Pictures through the tower, once."""
    some = [shown for shown in some if shown.pictures]
    if not some:
        return
    first = next(model.parameters())
    tiles = [len(shown.pictures["pixels"]) for shown in some]
    pixels = torch.cat([shown.pictures["pixels"] for shown in some])
    for shown in some:
        shown.sizes = shown.pictures.get("sizes")
    known = [shown.sizes for shown in some if shown.sizes is not None]
    sizes = torch.cat(known) if known else None
    features = tower_features(model, pixels.to(first.device, first.dtype), sizes).split(tiles)
    for shown, found in zip(some, features, strict=True):
        shown.features, shown.pictures = found, {}


def places(
    model: nn.Module, ids: Int[np.ndarray, " tokens"], shown: Shown | None
) -> Int[Tensor, "axes tokens"] | None:
    """Where the tokens of a prompt stand, on the host; None: one behind the other."""
    row = torch.from_numpy(ids)[None]
    sizes = None if shown is None else shown.sizes
    found = positions_of(model, row, torch.ones_like(row, dtype=torch.bool), sizes)
    return None if found is None else found[:, 0]


def side_by_side(starts: Sequence[Start], width: int) -> Int[Tensor, "axes starts width"] | None:
    """The places of all starts, zero behind the end of each."""
    told = [start.at for start in starts if start.at is not None]
    if not told:
        return None
    found = torch.zeros(len(told[0]), len(starts), width, dtype=torch.long)
    for line, at in enumerate(told):
        found[:, line, : at.shape[1]] = at
    return found


def best(
    model: nn.Module,
    hidden: Float[Tensor, "rows hidden"],
    prompts: Sequence[Prompt],
    written: Sequence[int],
) -> list[int]:
    """The token with the largest logit, for each row; the first of several that are equal."""
    logits = unwrap(model).lm_head(hidden).float()
    found = torch.stack([logits.argmax(dim=-1), logits.isfinite().all(dim=-1).long()]).tolist()
    for prompt, count, finite in zip(prompts, written, found[1], strict=True):
        if not finite:
            raise GenerationError(
                f"{prompt.name}: the logits of new token {count + 1} are not finite; the model or "
                "the precision is at fault (try generation.precision=bfloat16 or float32)"
            )
    return found[0]


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def check_attention(config: PreTrainedConfig, longest: int) -> None:
    how = config._attn_implementation
    if how not in ("sdpa", "eager") or not can_be_shared(config, longest):
        raise ValueError(
            f"a {config.model_type} with {how} attention, {longest} tokens a row: a batch needs "
            "sdpa or eager and layers that see everything before; set generation.batch=1"
        )
