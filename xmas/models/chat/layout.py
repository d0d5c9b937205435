"""What stands in a conversation for its image: tokens for the tower's features, and marks.

A layout is arithmetic on the image's size, so that every length is known before an image is decoded
and before any model is built.
"""

import dataclasses
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from xmas.store import Store

FEATURE = -1  # where a feature of the image goes; a batch puts the model's image token here


@runtime_checkable
class Layout(Protocol):
    """The tokens of an image, by its size where `by_size` says so."""

    @property
    def by_size(self) -> bool: ...

    @property
    def literal(self) -> str | None:
        """What the tokenizer would read as the image token, if anything."""
        ...

    def tokens(self, size: tuple[int, int] | None) -> Int[np.ndarray, " image"]:
        """Token ids, `FEATURE` for each feature of the image; `size` is (height, width), pixels."""
        ...


@runtime_checkable
class HasLayout(Protocol):
    """A start point, which knows how its model's images become tokens."""

    def layout(self, store: Store) -> Layout: ...


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Every image has as many features as any other, whatever its size: LLaVA-1.5's layout."""

    length: int
    literal: str | None = None
    by_size: bool = dataclasses.field(default=False, init=False)

    @cached_property
    def _tokens(self) -> Int[np.ndarray, " image"]:
        return np.full(self.length, FEATURE, dtype=np.int32)

    def tokens(self, size: tuple[int, int] | None) -> Int[np.ndarray, " image"]:
        return self._tokens


def literal_of(tokenizer: Any, image_token: int) -> str | None:
    """What a tokenizer reads as the image token; none where the id stands behind its own."""
    return tokenizer.convert_ids_to_tokens(image_token) if image_token < len(tokenizer) else None
