"""KV caches in buffers: of one sequence, and of independent slots for continuous batching.

The caches of transformers copy the whole sequence for every token, so that its address changes.
They have one length for all rows and pad on the left, so that a row cannot be replaced while the
others continue. Here every slot has its own sequence and its own length.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class SequenceCache(Cache):
    """Keys and values of one sequence, in buffers that stay where they are.

    To the model it is a `DynamicCache`, with the same values.

    Args:
        positions: that the buffers have room for.
    """

    def __init__(self, positions: int) -> None:
        super().__init__(layer_class_to_replicate=lambda: _Buffers(positions))  # pyright: ignore[reportArgumentType]
        self.positions = positions

    def begin_at(self, length: int) -> None:
        """Keep the first `length` positions; the next forward pass writes from there on."""
        for layer in self.layers:
            assert isinstance(layer, _Buffers)
            layer.length = length


class _Buffers(DynamicLayer):
    """The keys and values of one layer, of which the first `length` positions are valid."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.positions = positions
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            states.new_zeros((*states.shape[:2], self.positions, states.shape[3]))
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the new keys and values, and return those of the whole sequence."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        end = self.length + key_states.shape[2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.length


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
        self.moves = 0  # times that the tensors were replaced by others
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
        self._positions, self._upto = positions, upto
        self._all = slots is None
        self._lines = torch.arange(self.slots, device=positions.device) if slots is None else slots
        self.reserve(upto)

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
        attended = []
        for layers, new in ((self.keys, key_states), (self.values, value_states)):
            layer = layers[layer_idx]
            layer[self._lines[:, None], :, self._positions] = new.transpose(1, 2)
            visible = layer if self._all else layer[self._lines]
            attended.append(visible[:, :, : self._upto])
        return attended[0], attended[1]

    def copy_from(
        self, source: "SlotCache", lines: Sequence[int], slots: Sequence[int], length: int
    ) -> None:
        """Copy the first `length` positions of the slots `lines` of `source` into `slots`."""
        self.reserve(length)
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
        self.moves += 1
        for layers in (self.keys, self.values):
            for number, layer in enumerate(layers):
                layers[number] = layer[torch.tensor(slots, device=layer.device)]

    def reserve(self, positions: int) -> None:
        """Grow, if there is not room for this many positions in every slot."""
        if not self.keys or self.keys[0].shape[2] >= positions:
            return
        self.moves += 1
        for layers in (self.keys, self.values):
            for number, layer in enumerate(layers):
                more = positions + self._growth - layer.shape[2]
                layers[number] = torch.nn.functional.pad(layer, (0, 0, 0, more))

    def _allocate(self, like: Float[Tensor, "_ heads _ width"], positions: int) -> None:
        shape = (self.slots, like.shape[1], positions + self._growth, like.shape[3])
        self.keys.append(like.new_zeros(shape))
        self.values.append(like.new_zeros(shape))
