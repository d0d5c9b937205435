"""What a language model receives instead of token ids: embeddings, positions, deep features."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xmas.models.image_blocks import ImageBlocks


@dataclasses.dataclass(frozen=True)
class LanguageInputs:
    """Inputs of a language model for rows of equal length.

    Attributes:
        embeddings: of the tokens, the features of images in their places.
        positions: the model's `position_ids`; None: it counts tokens one by one.
        deep: what is added to the outputs of the first layers at the tokens of images, a tensor a
            layer (DeepStack).
        deep_row: which row of each tensor of `deep` is a token's; -1: none. None: without `deep`.
        blocks: images whose tokens see each other; None: all masks are causal.
        own: further arguments, by name, that the model's own forward passes; such rows are whole,
            and join no others.
    """

    embeddings: Float[Tensor, "rows length hidden"]
    positions: Int[Tensor, "*axes rows length"] | None = None
    deep: Sequence[Float[Tensor, "features hidden"]] = ()
    deep_row: Int[Tensor, "rows length"] | None = None
    blocks: ImageBlocks | None = None
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the language model, by transformers' names."""
        arguments: dict[str, Any] = {**self.own, "inputs_embeds": self.embeddings}
        if self.positions is not None:
            arguments["position_ids"] = self.positions
        if self.deep_row is not None:
            is_image = self.deep_row >= 0
            order = self.deep_row[is_image]
            arguments["visual_pos_masks"] = is_image
            arguments["deepstack_visual_embeds"] = [features[order] for features in self.deep]
        if self.blocks is not None:
            arguments["attention_mask"] = self.blocks.masks()
        return arguments

    def after(self, prefix: "LanguageInputs", which: Int[Tensor, " rows"]) -> "LanguageInputs":
        """These inputs in a pass that continues from the KV cache of `prefix`, whose row `which`
        each of them follows: positions count from where those of that row end.

        They end after the largest, which is not the number of tokens: an image of h x w tokens
        takes max(h, w) positions of M-RoPE.
        """
        length = prefix.embeddings.shape[1]
        blocks = None if self.blocks is None else self.blocks.after(length)
        if self.positions is None or prefix.positions is None:
            return dataclasses.replace(self, blocks=blocks)
        ends = prefix.positions.amax(dim=(0, 2)) + 1
        positions = self.positions + ends[which][:, None]
        return dataclasses.replace(self, positions=positions, blocks=blocks)

    def joined_to(self, prefix: "LanguageInputs", which: Int[Tensor, " rows"]) -> "LanguageInputs":
        """These inputs after those of row `which` of `prefix`, in one pass."""
        own = self.after(prefix, which)
        positions = deep_row = None
        if own.positions is not None and prefix.positions is not None:
            positions = torch.cat([prefix.positions[:, which], own.positions], dim=2)
        if prefix.deep_row is not None:
            count, later = len(prefix.deep[0]), own.deep_row
            if later is None:
                later = torch.full_like(own.embeddings[..., 0], -1, dtype=torch.long)
            else:
                later = torch.where(later >= 0, later + count, -1)
            deep_row = torch.cat([prefix.deep_row[which], later], dim=1)
        deep = prefix.deep
        if own.deep:
            deep = [torch.cat(pair) for pair in zip(prefix.deep, own.deep, strict=True)]
        embeddings = torch.cat([prefix.embeddings[which], own.embeddings], dim=1)
        blocks = prefix.blocks
        if blocks is not None:
            number, length = blocks.number[which], own.embeddings.shape[1]
            later = blocks.none(len(number), length) if self.blocks is None else self.blocks
            blocks = later.joined_to(number)
        return LanguageInputs(embeddings, positions, deep, deep_row, blocks)
