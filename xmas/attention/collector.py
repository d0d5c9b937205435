"""Combine the text x image attention of several layers into one matrix a row."""

import abc
import contextlib
from collections.abc import Collection, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

COMBINATIONS = ("sum", "concat_text", "concat_vision", "last")


def hooked(layers: Collection[int] | None, combine: str, count: int) -> tuple[int, ...]:
    """The layers to read, ascending, of a model that has `count` of them.

    Args:
        layers: numbers from 0; None: all.
        combine: one of `COMBINATIONS`; `last` reads only the last of `layers`.

    Raises:
        ValueError: the model does not have a layer, `layers` is empty, or `combine` is unknown.
    """
    if combine not in COMBINATIONS:
        raise ValueError(f"combine={combine!r} is not one of {', '.join(COMBINATIONS)}")
    indices = sorted(set(range(count) if layers is None else layers))
    missing = [layer for layer in indices if not 0 <= layer < count]
    if missing or not indices:
        raise ValueError(f"layers {missing or '[]'}: the model has layers 0 to {count - 1}")
    return tuple(indices[-1:] if combine == "last" else indices)


class Collector(abc.ABC):
    """Receives one matrix a row from each layer that is read, and combines them as `total`.

    `sum` adds them; `concat_text` concatenates along the text, `concat_vision` along the image, in
    the order of the layers; `last` is the last of `layers` alone. Memory: rows x text x image x 4
    bytes, times the number of layers if concatenated.
    """

    def __init__(self, layers: Collection[int] | None = None, combine: str = "sum") -> None:
        self.layers = layers
        self.combine = combine
        self.seen: list[int] = []
        self._parts: list[Float[Tensor, "rows text image"]] = []
        self._sums: list[Float[Tensor, " rows"]] = []

    def begin(self, count: int) -> None:
        """Determine the layers for a model that has `count` of them; raises as `hooked` does."""
        self.layers = hooked(self.layers, self.combine, count)

    @property
    def last(self) -> int:
        """The last layer that is read, known after `begin`."""
        return max(self.layers or ())

    @abc.abstractmethod
    def reading(
        self, language: PreTrainedModel, stop: bool
    ) -> contextlib.AbstractContextManager[None]:
        """Read passes of `language` within the context; `stop`: end them after the last layer."""

    @abc.abstractmethod
    def lines(self) -> Bool[Tensor, "rows lines"]:
        """True for lines of `total` that belong to the text that counts; the others are zero."""

    @abc.abstractmethod
    def empty(self) -> Bool[Tensor, " rows"]:
        """True for rows without any text that counts or without an image."""

    def add(self, layer: int, attention: Float[Tensor, "rows text image"]) -> None:
        """Add the matrices of a layer, which may be overwritten."""
        self.seen.append(layer)
        self._sums.append(attention.sum(dim=(1, 2)))
        if self.combine == "sum" and self._parts:
            self._parts[0] += attention
        else:
            self._parts.append(attention)

    @property
    def total(self) -> Float[Tensor, "rows lines columns"]:
        """The combined matrices, one a row."""
        if self.combine == "concat_text":
            return torch.cat(self._parts, dim=1)
        if self.combine == "concat_vision":
            return torch.cat(self._parts, dim=2)
        return self._parts[0]

    def complete(self) -> None:
        """Raises RuntimeError: a layer was not read exactly once."""
        expected = sorted(self.layers or ())
        if sorted(self.seen) != expected:
            raise RuntimeError(f"attention seen in layers {sorted(self.seen)}, expected {expected}")

    @property
    def nbytes(self) -> int:
        """Bytes of what `total` is made of."""
        return sum(part.nbytes for part in self._parts)

    @property
    def sums(self) -> Float[Tensor, "layers rows"]:
        """The sum of each matrix that was added: not finite where one of its numbers is not."""
        return torch.stack(self._sums)


def finite(
    snapshots: Sequence[Sequence[Collector]],
) -> Bool[Tensor, "rows snapshots layers"]:
    """Whether the attention of each row is finite, for the same batches under some snapshots.

    The rows are those of the batches, one after another.
    """
    sums = [torch.cat([batch.sums for batch in batches], dim=1) for batches in snapshots]
    return torch.stack(sums).isfinite().permute(2, 0, 1)


def refuse_non_finite(
    is_finite: Bool[np.ndarray, "rows snapshots layers"],
    *,
    rows: Int[np.ndarray, " rows"],
    snapshots: Sequence[str],
    layers: Sequence[int],
) -> None:
    """Raise FloatingPointError where attention is not finite, with advice.

    It names the first snapshot where it is not, its rows and the first layer of each.

    Args:
        is_finite: as `finite` tells.
        rows: their numbers in the pool.
        snapshots: labels of the snapshots, for the message.
        layers: numbers of the layers.
    """
    for number, label in enumerate(snapshots):
        first = {
            int(rows[row]): layers[int((~is_finite[row, number]).argmax())]
            for row in np.flatnonzero(~is_finite[:, number].all(axis=1))
        }
        if bad := sorted(first):
            raise FloatingPointError(
                f"{label}: the attention of rows {bad} is not finite; first in layers "
                f"{[first[row] for row in bad]}; lower the learning rate, set gradient clipping, "
                "or check these rows"
            )
