"""Load the units of a plan as tensors, optionally in worker processes."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from xmas.attention.plan import Unit
from xmas.attention.spans import Spans
from xmas.data.rows import Shown
from xmas.models.chat.layout import FEATURE
from xmas.models.chat.tokens import TokenTable
from xmas.models.vision_cache import Pictures

Change = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Material:
    """What is measured: the tokens and images of a pool.

    Args:
        table: the tokens of every row.
        pictures: pixels or features of the images of given rows.
        shown: the pictures of every row.
        pad: the id of pads.
        max_length: maximum positions of a pass, for mode `released`; None: not truncated.
    """

    table: TokenTable
    pictures: Pictures
    shown: Shown
    pad: int
    max_length: int | None = None


@dataclasses.dataclass(frozen=True)
class Text:
    """What follows the prefix of some rows, padded on the right.

    `which`: the number of each row's prefix in the unit; `ids`: the tokens, those of later images
    included; `mask`: False for padding of `ids`; `image_places`: where the images' are, counted
    through all rows; `text`: positions among them that are text, `text_mask`: False for padding of
    `text`; `answers`: True for tokens of answers; `pictures`: of the later images, whose features
    are at `image`; `image_mask`: False for padding of `image`.
    """

    which: Int[Tensor, " rows"]
    ids: Int[Tensor, "rows length"]
    mask: Bool[Tensor, "rows length"]
    image_places: Int[Tensor, " features"]
    text: Int[Tensor, "rows text"]
    text_mask: Bool[Tensor, "rows text"]
    answers: Bool[Tensor, "rows text"]
    pictures: dict[str, Tensor]
    image: Int[Tensor, "rows image"]
    image_mask: Bool[Tensor, "rows image"]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A unit with its images, the tokens of its prefixes, and the rest of its rows.

    `prefix_ids`: token ids up to the end of an image. `image_places`: where the tokens of images
    are among them, counted through all prefixes. `image`: positions among them that are features of
    images, not separators between tiles. `image_mask`: False for padding of `image`, where another
    prefix of the unit has more. `text`, `text_mask`, `answers`: as in `Text`, of the text between
    the images of a prefix.
    """

    unit: Unit
    pictures: dict[str, Tensor]
    prefix_ids: Int[Tensor, "pictures prefix"]
    image_places: Int[Tensor, " features"]
    image: Int[Tensor, "pictures image"]
    image_mask: Bool[Tensor, "pictures image"]
    text: Int[Tensor, "pictures text"]
    text_mask: Bool[Tensor, "pictures text"]
    answers: Bool[Tensor, "pictures text"]
    texts: list[Text]

    def each(self, change: Change) -> "Loaded":
        """Apply `change` to every tensor."""
        return _each(self, change)

    def to(self, device: torch.device) -> "Loaded":
        """The unit on a device."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Loaded":
        """The unit in page-locked memory; called by torch's loader."""
        return self.each(Tensor.pin_memory)


@dataclasses.dataclass(frozen=True)
class Feed:
    """Loads units of a pool.

    Args:
        table: its tokens.
        spans: of the table.
        pictures: pixels or features of the images of given rows.
        image_token: the id for a feature of an image.
        pad: the id of pads.
        workers: processes that load; 0: this one.
        pinned: load into page-locked memory, for asynchronous copies to a GPU.
        first_image: the features of a row's first image alone count as image.
    """

    table: TokenTable
    spans: Spans
    pictures: Pictures
    image_token: int
    pad: int
    workers: int = 0
    pinned: bool = False
    first_image: bool = False

    def __call__(self, units: Sequence[Unit]) -> Iterator[Loaded]:
        yield from torch.utils.data.DataLoader(
            units,  # type: ignore[arg-type]  # a list is a map-style dataset
            batch_size=None,
            collate_fn=self.load,  # pyright: ignore[reportArgumentType]  # gets one unit
            num_workers=self.workers,
            pin_memory=self.pinned,
            generator=torch.Generator(),  # otherwise the global generator would be used
        )

    def load(self, unit: Unit) -> Loaded:
        """Load one unit."""
        length = int(self.spans.up_to_image_end[unit.firsts[0]])
        lines = [self._line(row, slice(0, length)) for row in unit.firsts.tolist()]
        image, image_mask = _positions([line.image for line in lines])
        text, text_mask = _positions([line.text for line in lines])
        width = None if unit.width is None else unit.width - length
        prefix_ids = np.stack([line.ids for line in lines])
        return Loaded(
            unit=unit,
            pictures=self._pictures(unit.firsts, later=False),
            prefix_ids=torch.from_numpy(prefix_ids),
            image_places=torch.from_numpy(np.flatnonzero(prefix_ids == self.image_token)),
            image=image,
            image_mask=image_mask,
            text=text,
            text_mask=text_mask,
            answers=_at([line.answers for line in lines], text) & text_mask,
            texts=[self._text(unit, batch, width) for batch in unit.batches],
        )

    def _text(self, unit: Unit, batch: Int[np.ndarray, " rows"], width: int | None) -> Text:
        rows = unit.rows[batch]
        lengths = self.spans.text[rows]
        width = int(lengths.max()) if width is None else width
        ends = self.spans.up_to_image_end[rows].tolist()
        lines = [
            self._line(row, slice(end, None)) for row, end in zip(rows.tolist(), ends, strict=True)
        ]
        ids = np.full((len(rows), width), self.pad, dtype=np.int64)
        for number, line in enumerate(lines):
            ids[number, : len(line.ids)] = line.ids
        mask = np.arange(width) < np.array([len(line.ids) for line in lines])[:, None]
        image, image_mask = _positions([line.image for line in lines])
        text, text_mask = _positions([line.text for line in lines])
        return Text(
            which=torch.from_numpy(unit.which[batch]),
            ids=torch.from_numpy(ids),
            mask=torch.from_numpy(mask),
            image_places=torch.from_numpy(np.flatnonzero(ids == self.image_token)),
            text=text,
            text_mask=text_mask,
            answers=_at([line.answers for line in lines], text) & text_mask,
            pictures=self._pictures(rows, later=True),
            image=image,
            image_mask=image_mask,
        )

    def _line(self, row: int, part: slice) -> "_Line":
        """A part of a row, with its images' tokens."""
        tokens = self.table[row]
        following = np.arange(len(tokens.ids)) >= tokens.places[0]
        if part.stop is None and part.start and len(tokens.places) == 1:  # text alone
            ids, answers = tokens.ids[tokens.places[0] :], tokens.labelled[tokens.places[0] :]
            every = np.ones(len(ids), dtype=bool)
            return _Line(ids, image=~every, text=every, answers=answers)
        counted = tokens.images[:1] if self.first_image else tokens.images
        features = [
            (image == FEATURE) & (number < len(counted))
            for number, image in enumerate(tokens.images)
        ]
        none = [np.zeros(len(image), dtype=bool) for image in tokens.images]
        return _Line(
            ids=tokens.whole(self.image_token)[part],
            image=tokens.put_in(np.zeros(len(tokens.ids), dtype=bool), features)[part],
            text=tokens.put_in(following, none)[part],
            answers=tokens.put_in(tokens.labelled, none)[part],
        )

    def _pictures(self, rows: Int[np.ndarray, " rows"], *, later: bool) -> dict[str, Tensor]:
        """The images of the prefixes of rows, or those that come later in them."""
        counts = self.table.image_counts[rows]
        first = counts if self.spans.images is None else self.spans.images[rows]
        if (counts == first).all():
            return {} if later else self.pictures(rows.tolist())
        if not later and not first.any():
            return {}
        parts = [slice(count, None) if later else slice(count) for count in first.tolist()]
        return self.pictures(rows.tolist(), parts)


@dataclasses.dataclass(frozen=True)
class _Line:
    """A part of a row: its ids, which are features of images, text that an image precedes, and
    tokens of answers.
    """

    ids: Int[np.ndarray, " length"]
    image: Bool[np.ndarray, " length"]
    text: Bool[np.ndarray, " length"]
    answers: Bool[np.ndarray, " length"]


def _positions(masks: Sequence[Bool[np.ndarray, " _"]]) -> tuple[Tensor, Tensor]:
    """Where masks are true, a line each, padded with 0; and a mask of what is no padding."""
    places = [np.flatnonzero(mask) for mask in masks]
    counts = np.array([len(place) for place in places])
    positions = np.zeros((len(masks), int(counts.max())), dtype=np.int64)
    for line, place in enumerate(places):
        positions[line, : len(place)] = place
    is_place = np.arange(positions.shape[1])[None] < counts[:, None]
    return torch.from_numpy(positions), torch.from_numpy(is_place)


def _at(values: Sequence[Bool[np.ndarray, " _"]], positions: Tensor) -> Tensor:
    """The value of each line at its positions."""
    pairs = zip(values, positions.numpy(), strict=True)
    return torch.from_numpy(np.stack([np.append(line, False)[place] for line, place in pairs]))


def _each(value: Any, change: Change) -> Any:
    """Apply `change` to every tensor inside a value."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _each(entry, change) for name, entry in value.items()}
    if isinstance(value, list):
        return [_each(entry, change) for entry in value]
    if isinstance(value, Loaded | Text):
        return type(value)(**{name: _each(entry, change) for name, entry in vars(value).items()})
    return value
