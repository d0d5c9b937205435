"""A cache of rows that begin and end on their own: keys and values of each at its own positions."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache

_STEP = 64  # positions that a full cache grows by


class Slots(Cache):
    """Keys and values of `rows` sequences, (rows, heads, positions, width) a layer.

    `aim` says where the next forward writes. Positions behind a row's own are stale or zero, never
    read: whoever runs the model gives it a mask. transformers' own caches are one length for all
    rows, padded on the left, so that a row cannot be replaced while the others go on.
    """

    def __init__(self, rows: int) -> None:
        super().__init__(layers=[])
        self.rows = rows
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def aim(
        self, rows: Int[Tensor, " lines"] | None, at: Int[Tensor, "lines tokens"], upto: int
    ) -> None:
        """The next forward has these rows (None: all), writes at `at` and reads up to `upto`."""
        self._rows, self._at, self._upto = rows, at, upto
        self._grow(upto)

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """What a layer of the model calls: takes its new keys and values, gives all it may see."""
        if layer_idx == len(self.keys):
            self._allocate(key_states, self._upto)
        rows = self._rows
        lines = torch.arange(self.rows, device=self._at.device) if rows is None else rows
        seen = []
        for held, new in ((self.keys, key_states), (self.values, value_states)):
            one = held[layer_idx]
            one[lines[:, None], :, self._at] = new.transpose(1, 2)
            seen.append(one[:, :, : self._upto] if rows is None else one[rows, :, : self._upto])
        return seen[0], seen[1]

    def place(
        self, rows: Sequence[int], source: "Slots", lines: Sequence[int], length: int
    ) -> None:
        """Copy the first `length` positions of another cache's `lines` into these rows."""
        self._grow(length)
        device = source.keys[0].device
        to, of = torch.tensor(rows, device=device), torch.tensor(lines, device=device)
        for layer, (key, value) in enumerate(zip(source.keys, source.values, strict=True)):
            if layer == len(self.keys):
                self._allocate(key, length)
            self.keys[layer][to, :, :length] = key[of, :, :length]
            self.values[layer][to, :, :length] = value[of, :, :length]

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, which take their order."""
        self.rows = len(rows)
        for held in (self.keys, self.values):
            for layer, one in enumerate(held):
                held[layer] = one[torch.tensor(rows, device=one.device)]

    def _allocate(self, like: Float[Tensor, "_ heads _ width"], positions: int) -> None:
        shape = (self.rows, like.shape[1], positions + _STEP, like.shape[3])
        self.keys.append(like.new_zeros(shape))
        self.values.append(like.new_zeros(shape))

    def _grow(self, positions: int) -> None:
        if not self.keys or self.keys[0].shape[2] >= positions:
            return
        for held in (self.keys, self.values):
            for layer, one in enumerate(held):
                more = positions + _STEP - one.shape[2]
                held[layer] = torch.nn.functional.pad(one, (0, 0, 0, more))
