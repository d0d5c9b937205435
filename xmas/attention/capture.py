"""Collect the attention of text to image from chosen layers while a model runs.

Next to the pass itself, the attention of the text is computed from the same queries and keys,
normalised over all keys that the mask allows. This is mode `model` of the metric: per head, causal,
pads masked, with the model's scale. Where the kernel of the pass gives the sums over all keys, only
the keys of images are multiplied once more.
"""

import contextlib
import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from xmas.attention.collector import Collector, hooked
from xmas.attention.shares import (
    added,
    at_positions,
    consecutive,
    image_shares,
    normalised_shares,
    without_repeats,
)
from xmas.attention.stream import AttentionInputs, StopPass, handed_to


class CrossAttention(Collector):
    """The attention of text tokens to image tokens, averaged over heads, layer by layer.

    Args:
        text: positions of each row's text tokens among the *queries*.
        text_mask: False for padding, whose lines are zero: singular values stay the same.
        image: positions of each row's image tokens among the *keys*; in a pass that continues from
            a KV cache these are counted from the start of the cache.
        image_mask: False for padding, whose columns are zero; None: no padding.
        prefix: lines of text that ran before, in the pass that filled the KV cache.
        layers: numbers from 0; None: all.
        combine: how layers become one matrix, see `Collector`.
        dtype: of products, softmax and sums.
        block_bytes: of the logits computed at a time, see `image_shares`.
    """

    def __init__(
        self,
        text: Int[Tensor, "rows text"],
        text_mask: Bool[Tensor, "rows text"],
        image: Int[Tensor, "rows image"],
        *,
        image_mask: Bool[Tensor, "rows image"] | None = None,
        prefix: "PrefixLines | None" = None,
        layers: Collection[int] | None = None,
        combine: str = "sum",
        dtype: torch.dtype = torch.float32,
        block_bytes: int | None = None,
    ) -> None:
        super().__init__(layers, combine)
        self.text = text
        self.text_mask = text_mask
        self.text_slice = consecutive(text, text_mask)
        self.image = image
        self.image_slice = consecutive(image, image_mask)
        lines = text_mask[:, :, None]
        self.kept = lines if image_mask is None else lines & image_mask[:, None]
        self.prefix = prefix
        self.dtype = dtype
        self.block_bytes = block_bytes
        self._hidden_by: tuple[Tensor | None, Bool[Tensor, "rows text image"]] | None = None

    def lines(self) -> Bool[Tensor, "rows lines"]:
        mask = self.text_mask
        if self.prefix is not None:
            mask = torch.cat([self.prefix.text_mask, mask], dim=1)
        return mask.repeat(1, len(self.seen)) if self.combine == "concat_text" else mask

    def empty(self) -> Bool[Tensor, " rows"]:
        kept = self.kept.flatten(1).any(dim=1)
        return ~kept if self.prefix is None else ~(kept | self.prefix.text_mask.any(dim=1))

    @contextlib.contextmanager
    def reading(self, language: PreTrainedModel, stop: bool) -> Iterator[None]:
        def read(inputs: AttentionInputs) -> None:
            if inputs.layer in (self.layers or ()):
                self._read(inputs)

        try:
            with handed_to(read, language, last=self.last if stop else None):
                yield
        finally:
            self._hidden_by = None  # as large as a quarter of a layer's attention

    def _read(self, inputs: AttentionInputs) -> None:
        shares = self._shares(inputs)
        if self.prefix is not None:
            before = self.prefix.layers[inputs.layer]
            wider = (0, shares.shape[2] - before.shape[2])  # of later images it sees nothing
            shares = torch.cat([nn.functional.pad(before, wider), shares], dim=1)
        self.add(inputs.layer, shares)

    def _shares(self, inputs: AttentionInputs) -> Float[Tensor, "rows text image"]:
        query, key, mask = inputs.query, inputs.key, inputs.mask
        length, keys = query.shape[2], key.shape[2]
        text_query = at_positions(query, self.text, self.text_slice)
        how = {"scale": inputs.scale, "dtype": self.dtype, "block_bytes": self.block_bytes}
        if (logsumexp := self._usable(inputs)) is not None:
            shares = normalised_shares(
                text_query,
                at_positions(key, self.image, self.image_slice),
                at_positions(logsumexp[..., None], self.text, self.text_slice),
                **how,
            )
            return shares.masked_fill_(self._hidden(mask, keys - length), 0)
        bias = self._bias(mask, length, keys)
        how |= {"softcap": inputs.softcap, "image_slice": self.image_slice}
        shares = image_shares(text_query, key, bias, self.image, **how)
        return shares.masked_fill_(~self.kept, 0)

    def _usable(self, inputs: AttentionInputs) -> Float[Tensor, "rows heads length"] | None:
        """The sums of the pass, if they are as precise as `dtype` and the mask is a plain one."""
        logsumexp, mask = inputs.logsumexp, inputs.mask
        if logsumexp is None or logsumexp.dtype.itemsize < self.dtype.itemsize:
            return None
        plain = mask is None or (mask.dtype == torch.bool and mask.shape[1] == 1)
        return logsumexp if plain else None

    def _hidden(self, mask: Tensor | None, cached: int) -> Bool[Tensor, "rows text image"]:
        """Padding, and what the mask hides: later images, images outside a sliding window.

        Args:
            cached: keys before those of the queries.
        """
        if self._hidden_by and self._hidden_by[0] is mask:  # as in the layer before
            return self._hidden_by[1]
        if mask is None:
            seen = self.image[:, None] <= self.text[..., None] + cached
        elif self.text_slice and self.image_slice:
            seen = mask[:, 0, self.text_slice, self.image_slice]
        else:
            rows = torch.arange(len(self.text), device=mask.device)[:, None, None]
            spread = mask.expand(len(self.text), -1, -1, -1)
            seen = spread[rows, 0, self.text[..., None], self.image[:, None]]
        self._hidden_by = mask, ~(self.kept & seen)
        return self._hidden_by[1]

    def _bias(
        self, mask: Tensor | None, length: int, keys: int
    ) -> Float[Tensor, "#rows heads text keys"]:
        """The mask of the text tokens, as numbers to add to logits; causal without a mask."""
        if mask is None:
            position = torch.arange(keys, device=self.text.device)
            allowed = (position <= self.text[..., None] + keys - length)[:, None]
        else:
            allowed = at_positions(without_repeats(mask), self.text, self.text_slice)
        return added(allowed)


class PrefixAttention(CrossAttention):
    """The attention of the text between the images of prefixes, layer by layer, for `of`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.by_layer: dict[int, Float[Tensor, "prefixes text image"]] = {}

    def add(self, layer: int, attention: Float[Tensor, "rows text image"]) -> None:
        self.seen.append(layer)
        self.by_layer[layer] = attention

    def of(self, which: Int[Tensor, " rows"]) -> "PrefixLines":
        """The lines of the prefixes that rows continue from."""
        layers = {layer: attention[which] for layer, attention in self.by_layer.items()}
        return PrefixLines(self.text_mask[which], layers)


@dataclasses.dataclass(frozen=True)
class PrefixLines:
    """Lines of rows that come from their prefixes: the attention of text between images."""

    text_mask: Bool[Tensor, "rows text"]
    layers: dict[int, Float[Tensor, "rows text image"]]


@contextlib.contextmanager
def attention_of(
    language: PreTrainedModel, into: Collector, *, stop: bool = False
) -> Iterator[Collector]:
    """Collect attention from the forward passes within the context.

    Args:
        into: receives the layers, and is returned.
        stop: end a pass when its last layer has been read. What follows (the attention and
            feed-forward of that layer, later layers, the final norm) is not computed, and the
            context ends there: statements after the call of the model do not run.

    Raises:
        ValueError: the model does not have a layer.
        RuntimeError: at the end, a layer was not read exactly once.
    """
    into.begin(language.config.num_hidden_layers)
    with contextlib.suppress(StopPass), into.reading(language, stop):
        yield into
    into.complete()


@contextlib.contextmanager
def prefix_of(language: PreTrainedModel, layers: Collection[int] | None = None) -> Iterator[None]:
    """End a pass that only fills a KV cache once the last of `layers` has its keys there."""
    last = hooked(layers, "last", language.config.num_hidden_layers)[0]

    with contextlib.suppress(StopPass), handed_to(lambda _: None, language, last=last):
        yield
