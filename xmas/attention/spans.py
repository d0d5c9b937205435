"""Where the images of rows are, and which rows begin alike up to the end of an image."""

import dataclasses
from collections import Counter

import numpy as np
from jaxtyping import Int

from xmas.data.rows import Shown
from xmas.models.chat.labels import Tokens
from xmas.models.chat.tokens import TokenTable

_Begin = tuple[int, bytes, tuple[int, ...], bytes]  # of a row: prefix number, pictures, places, ids


@dataclasses.dataclass(frozen=True)
class Spans:
    """A row in three parts: the tokens before its first image, from there to the end of an image,
    and after that.

    Rows with the same `prefix` are the same up to the end of that image: same pictures, same tokens
    before and between them; -1 without an image. It is the only image of a row, or of several the
    last one up to which another row is the same; of a row that is like no other, the first.

    Attributes:
        text: tokens after that image, those of later images included.
        images: how many images the prefix has; None: one.
    """

    before: Int[np.ndarray, " rows"]
    image: Int[np.ndarray, " rows"]
    text: Int[np.ndarray, " rows"]
    prefix: Int[np.ndarray, " rows"]
    images: Int[np.ndarray, " rows"] | None = None

    @property
    def up_to_image_end(self) -> Int[np.ndarray, " rows"]:
        """The number of tokens up to the end of the image."""
        return self.before + self.image

    @classmethod
    def whole(cls, table: TokenTable) -> "Spans":
        """Rows that share nothing, all of each after an empty prefix without an image."""
        none = np.zeros(len(table), dtype=np.int32)
        prefix = np.where(table.image_at >= 0, np.arange(len(table)), -1)
        return cls(none, none, table.lengths.astype(np.int32), prefix, images=none)

    @classmethod
    def of(cls, table: TokenTable, shown: Shown) -> "Spans":
        """The spans of a pool, whose rows show these pictures."""
        has_image = table.image_at >= 0
        before = np.maximum(table.image_at, 0).astype(np.int32)
        image = (table.lengths - table.text_lengths).astype(np.int32)
        numbers: dict[bytes, int] = {}
        text_number = np.full(len(table), -1, dtype=np.int64)  # of the tokens before the image
        for row in np.flatnonzero(has_image).tolist():
            ids = table.ids(row)[: before[row]]
            text_number[row] = numbers.setdefault(ids.tobytes(), len(numbers))
        pair = shown.first * max(1, len(numbers)) + text_number
        text = (table.text_lengths - before).astype(np.int32)
        prefix = np.where(has_image, pair, -1)
        spans = cls(before, image, text, prefix, images=has_image.astype(np.int32))
        several = np.flatnonzero(has_image & (shown.counts > 1))
        if len(several):
            _share(spans, table, shown, several)
        return spans


def _share(
    spans: Spans, table: TokenTable, shown: Shown, rows: Int[np.ndarray, " several"]
) -> None:
    """Cut the rows of several images after the last image that another row has as well."""
    assert spans.images is not None
    often: Counter[_Begin | int] = Counter(spans.prefix.tolist())
    begins = {row: _begins(table[row], int(spans.prefix[row]), shown[row]) for row in rows.tolist()}
    for deeper in begins.values():
        often.update(deeper)
    numbers: dict[_Begin, int] = {}
    above = int(spans.prefix.max()) + 1
    for row, deeper in begins.items():
        common = [count for count, begin in enumerate(deeper, start=2) if often[begin] > 1]
        images = common[-1] if common else 1
        tokens = table[row]
        end = tokens.places[images - 1] + sum(map(len, tokens.images[:images]))
        spans.images[row] = images
        spans.image[row] = end - spans.before[row]
        spans.text[row] = len(tokens) - end
        if images > 1:
            spans.prefix[row] = numbers.setdefault(deeper[images - 2], above + len(numbers))


def _begins(tokens: Tokens, prefix: int, pictures: Int[np.ndarray, " images"]) -> list[_Begin]:
    """What a row is up to the end of its second image, its third and so on.

    Without the last one if no text follows it: then nothing would be left to measure.
    """
    last = len(tokens.places) - (tokens.places[-1] == len(tokens.ids))
    return [
        (
            prefix,
            pictures[:images].tobytes(),
            tokens.places[:images],
            tokens.ids[: tokens.places[images - 1]].tobytes(),
        )
        for images in range(2, last + 1)
    ]
