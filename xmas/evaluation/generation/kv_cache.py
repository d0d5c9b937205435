"""A KV cache of independent slots, for continuous batching.

The caches of transformers have one length for all rows and pad on the left, so that a row cannot be
replaced while the others continue. Here every slot has its own sequence and its own length.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache


class SlotCache(Cache):
    """Keys and values of `slots` sequences: a tensor (slots, heads, positions, width) per layer.

    `prepare` says which slots and positions the next forward pass writes. Positions after a slot's
    sequence are stale or zero; the caller's attention mask hides them.

    Args:
        slots: sequences that the cache has room for.
        growth: positions by which a full cache grows.
    """

    def __init__(self, slots: int, *, growth: int = 64) -> None:
        super().__init__(layers=[])
        self.slots = slots
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._growth = growth

    def prepare(
        self, slots: Int[Tensor, " lines"] | None, positions: Int[Tensor, "lines tokens"], upto: int
    ) -> None:
        """Announce a forward pass.

        Args:
            slots: of the pass's lines, in order; None: all slots.
            positions: where the keys and values of its tokens are written.
            upto: every token may attend to the positions before this one.
        """
        self._lines, self._positions, self._upto = slots, positions, upto
        self._grow(upto)

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values, and return all of the pass's slots.

        Called by the model's attention layers.
        """
        if layer_idx == len(self.keys):
            self._allocate(key_states, self._upto)
        device = self._positions.device
        slots = torch.arange(self.slots, device=device) if self._lines is None else self._lines
        attended = []
        for layers, new in ((self.keys, key_states), (self.values, value_states)):
            layer = layers[layer_idx]
            layer[slots[:, None], :, self._positions] = new.transpose(1, 2)
            visible = layer if self._lines is None else layer[slots]
            attended.append(visible[:, :, : self._upto])
        return attended[0], attended[1]

    def copy_from(
        self, source: "SlotCache", lines: Sequence[int], slots: Sequence[int], length: int
    ) -> None:
        """Copy the first `length` positions of the slots `lines` of `source` into `slots`."""
        self._grow(length)
        device = source.keys[0].device
        to, origin = torch.tensor(slots, device=device), torch.tensor(lines, device=device)
        for layer, (key, value) in enumerate(zip(source.keys, source.values, strict=True)):
            if layer == len(self.keys):
                self._allocate(key, length)
            self.keys[layer][to, :, :length] = key[origin, :, :length]
            self.values[layer][to, :, :length] = value[origin, :, :length]

    def keep(self, slots: Sequence[int]) -> None:
        """Drop all slots but these, which are renumbered in the given order."""
        self.slots = len(slots)
        for layers in (self.keys, self.values):
            for number, layer in enumerate(layers):
                layers[number] = layer[torch.tensor(slots, device=layer.device)]

    def _allocate(self, like: Float[Tensor, "_ heads _ width"], positions: int) -> None:
        shape = (self.slots, like.shape[1], positions + self._growth, like.shape[3])
        self.keys.append(like.new_zeros(shape))
        self.values.append(like.new_zeros(shape))

    def _grow(self, positions: int) -> None:
        if not self.keys or self.keys[0].shape[2] >= positions:
            return
        for layers in (self.keys, self.values):
            for number, layer in enumerate(layers):
                more = positions + self._growth - layer.shape[2]
                layers[number] = torch.nn.functional.pad(layer, (0, 0, 0, more))
