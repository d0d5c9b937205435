"""The tokens of an image in a conversation: one for each feature of the tower, and marks.

A layout is arithmetic on the image's size, so that every length is known before an image is decoded
and before any model is built.
"""

import dataclasses
from collections.abc import Sequence
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
        """The text that the tokenizer would read as the image token, if any."""
        ...

    def tokens(self, size: tuple[int, int] | None) -> Int[np.ndarray, " image"]:
        """Token ids, `FEATURE` for each feature of the image; `size` is (height, width), pixels."""
        ...


Around = tuple[str, str]
NO_TEXT: Around = ("", "")


@runtime_checkable
class HasTextAround(Protocol):
    """A layout whose model's processor writes text before and after the tokens of an image, which
    is tokenised with that of the turn, as Gemma 3's line breaks.
    """

    @property
    def around(self) -> Around: ...


def text_around(layout: Layout) -> Around:
    """The text that a model's processor writes before and after the tokens of an image."""
    return layout.around if isinstance(layout, HasTextAround) else NO_TEXT


@runtime_checkable
class OneTileLayout(Protocol):
    """A layout that cuts an image into tiles only where its row has no other image."""

    def tokens_of_several(self) -> Int[np.ndarray, " image"]:
        """As `Layout.tokens`, of an image of a row with several."""
        ...


@runtime_checkable
class LayoutOfRows(Protocol):
    """A layout that knows the images of a row only together."""

    def tokens_of_row(self, sizes: Sequence[tuple[int, int]]) -> list[Int[np.ndarray, " image"]]:
        """As `Layout.tokens`, of every image of a row."""
        ...


def tokens_of_row(
    layout: Layout, sizes: Sequence[tuple[int, int]]
) -> list[Int[np.ndarray, " image"]]:
    """The tokens of every image of a row, given their heights and widths."""
    if isinstance(layout, LayoutOfRows):
        return layout.tokens_of_row(sizes)
    if len(sizes) > 1 and isinstance(layout, OneTileLayout):
        return [layout.tokens_of_several()] * len(sizes)
    return [layout.tokens(size) for size in sizes]


@runtime_checkable
class HasLayout(Protocol):
    """A start point, whose model determines how images become tokens."""

    def layout(self, store: Store) -> Layout: ...


@dataclasses.dataclass(frozen=True)
class Fixed:
    """The same number of features for every image of any size: LLaVA-1.5's layout."""

    length: int
    literal: str | None = None
    by_size: bool = dataclasses.field(default=False, init=False)

    @cached_property
    def _tokens(self) -> Int[np.ndarray, " image"]:
        return np.full(self.length, FEATURE, dtype=np.int32)

    def tokens(self, size: tuple[int, int] | None) -> Int[np.ndarray, " image"]:
        return self._tokens


def literal_of(tokenizer: Any, image_token: int) -> str | None:
    """The text that a tokenizer reads as the image token; None where it does not have that id."""
    return tokenizer.convert_ids_to_tokens(image_token) if image_token < len(tokenizer) else None
