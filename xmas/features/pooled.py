"""Mean outputs of attention layers, over a row's image tokens and over its text tokens."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from xmas.features.module_reader import modules_read, part_of
from xmas.models.chat.batches import Batch
from xmas.models.chat.tokens import TokenTable

PROJECTIONS = ("o_proj", "dense")  # of self-attention: of most models, of Phi


class Means:
    """Collects means of layers' self-attention outputs, float32.

    Args:
        positions: for every mean of a row, which positions count; a mean over none is zero.

    Attributes:
        layers: layer to its means, as they come.
    """

    def __init__(self, positions: Bool[Tensor, "rows means length"]) -> None:
        count = positions.sum(dim=2, keepdim=True).clamp_min(1)
        self.weights: Float[Tensor, "rows means length"] = positions / count
        self.layers: dict[int, Float[Tensor, "rows means hidden"]] = {}

    def add(self, layer: int, output: Float[Tensor, "rows length hidden"]) -> None:
        self.layers[layer] = self.weights @ output.float()


@contextlib.contextmanager
def means_of(language: PreTrainedModel, layers: Sequence[int], into: Means) -> Iterator[Means]:
    """Collect the outputs of `o_proj` of these layers from one forward pass.

    The forward pass ends after the last of these layers, and with it the block. The hooks are
    removed in any case.

    Raises:
        ValueError: the model has no such layer.
        TypeError: its attention has no output projection.
        RuntimeError: at the end of the block, a layer was not run.
    """
    setting = "features.activations.layers"
    modules = {
        layer: part_of(language, layer, "self_attn", PROJECTIONS, setting) for layer in layers
    }
    with modules_read(modules, lambda layer, _, output: into.add(layer, output)):
        yield into


def halves(means: Float[Tensor, "rows layers 2 hidden"]) -> Float[Tensor, "rows width"]:
    """Features from means: tanh, each half scaled to length one, then by the root of their number.

    A mean of zeros stays zero.
    """
    squashed = means.tanh()
    lengths = squashed.norm(dim=3, keepdim=True)
    units = squashed / torch.where(lengths == 0, 1.0, lengths)
    return (units / (2 * means.shape[1]) ** 0.5).flatten(1)


@dataclasses.dataclass(frozen=True)
class Windows:
    """Which positions count for the image half and for the language half.

    Args:
        prompt: tokens before an image, their most common number in the pool; 0 without images.
        image: tokens of an image, their most common number in the pool; 0 without images.
        released: treat text-only rows as the release does; see `Activations`.
    """

    prompt: int
    image: int
    released: bool

    @classmethod
    def of(cls, table: TokenTable, *, released: bool) -> "Windows":
        """The windows of a tokenised pool."""
        pictured = table.image_at >= 0
        lengths = (table.lengths - table.text_lengths)[pictured]
        return cls(_most_common(table.image_at[pictured]), _most_common(lengths), released)

    def positions(self, batch: Batch, image_token: int) -> Bool[Tensor, "rows 2 length"]:
        """For every row of a batch, the positions of its image half and of its language half."""
        place = torch.arange(batch.ids.shape[1], device=batch.ids.device)[None]
        pictured = (batch.image_start >= 0)[:, None]
        row_length = batch.mask.sum(dim=1, keepdim=True)
        after_image = (batch.image_start + batch.image_length)[:, None]
        vision = pictured & (batch.ids == image_token)
        if not self.released:
            first = torch.where(pictured, after_image, torch.clamp(row_length - 1, max=self.prompt))
            return torch.stack([vision, batch.mask & (place >= first)], dim=1)
        window = self.prompt + self.image
        vision = vision | (~pictured & (place >= self.prompt) & (place < window))
        first = torch.where(pictured, after_image, window)
        last = torch.where(pictured, row_length, window + row_length - self.prompt)
        return torch.stack([vision, (place >= first) & (place < last)], dim=1)


def _most_common(values: Int[np.ndarray, " n"]) -> int:
    return int(np.bincount(values).argmax()) if len(values) else 0
