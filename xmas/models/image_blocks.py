"""Masks in which the tokens of an image see each other, those that follow too, as in Gemma 3.

Everything else is causal; a sliding layer sees as many keys back as its window is long.
"""

import dataclasses
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedConfig

NONE = -1


@dataclasses.dataclass(frozen=True)
class ImageBlocks:
    """The images of rows whose masks are not causal.

    Attributes:
        number: which image of its row a token belongs to; -1: none.
        config: of the language model.
        before: cached tokens that precede these.
    """

    number: Int[Tensor, "rows length"]
    config: PreTrainedConfig
    before: int = 0

    @classmethod
    def of(cls, is_image: Bool[Tensor, "rows length"], config: PreTrainedConfig) -> "ImageBlocks":
        """Tokens of an image that follow each other are one.

        Raises ValueError: the attention of the language model takes no such mask.
        """
        if "flash" in (implementation := config._attn_implementation or ""):
            raise ValueError(
                f"{implementation} has no mask in which a {config.model_type}'s tokens of an image "
                "see each other; set hardware.attention=sdpa"
            )
        previous = torch.nn.functional.pad(is_image, (1, 0))[:, :-1]
        number = (is_image & ~previous).cumsum(dim=1) - 1
        return cls(torch.where(is_image, number, NONE), config)

    def none(self, rows: int, length: int) -> "ImageBlocks":
        """Rows of `length` tokens without an image."""
        return dataclasses.replace(self, number=self.number.new_full((rows, length), NONE))

    def after(self, before: int) -> "ImageBlocks":
        """The same after cached tokens, none of which is of these images."""
        return dataclasses.replace(self, before=before)

    def joined_to(self, number: Int[Tensor, "rows prefix"]) -> "ImageBlocks":
        """The same after tokens of the images `number`, in one pass."""
        ours = self.number + number.amax(dim=1, keepdim=True) + 1
        both = [number, torch.where(self.number == NONE, NONE, ours)]
        return dataclasses.replace(self, number=torch.cat(both, dim=1))

    def masks(self) -> Any:
        """What transformers' language model takes as `attention_mask`: a mask for each kind of
        layer, if it has several.
        """
        position = torch.arange(self.before + self.number.shape[1], device=self.number.device)
        query = position[self.before :, None]
        keys = torch.nn.functional.pad(self.number, (self.before, 0), value=NONE)
        seen = (position <= query) | same_image(self.number, keys)
        kinds = getattr(self.config, "layer_types", None)
        if not kinds:
            return self._as_taken(seen)
        window = self.config.sliding_window
        sliding = seen & (position > query - window) if window else seen
        masks = {"full_attention": seen, "sliding_attention": sliding}
        return {kind: self._as_taken(masks[kind]) for kind in dict.fromkeys(kinds)}

    def opened(
        self, mask: Float[Tensor, "#rows 1 length keys"], positions: Int[Tensor, "rows length"]
    ) -> Float[Tensor, "rows 1 length keys"]:
        """An additive causal mask of a cache, open between the tokens of an image.

        Args:
            positions: of the tokens in the cache.
        """
        keys = self.number.new_full((len(self.number), mask.shape[-1]), NONE)
        keys.scatter_(1, positions.expand_as(self.number), self.number)
        return mask.masked_fill(same_image(self.number, keys)[:, None], 0)

    def _as_taken(self, seen: Bool[Tensor, "rows length keys"]) -> Tensor:
        mask = seen[:, None]
        if self.config._attn_implementation != "eager":
            return mask
        added = torch.zeros(mask.shape, device=mask.device)
        return added.masked_fill_(~mask, torch.finfo(torch.float32).min)


def same_image(
    number: Int[Tensor, "rows length"], keys: Int[Tensor, "rows keys"]
) -> Bool[Tensor, "rows length keys"]:
    """Whether a token and a key belong to the same image of their row."""
    return (number[:, :, None] == keys[:, None]) & (number[:, :, None] != NONE)
