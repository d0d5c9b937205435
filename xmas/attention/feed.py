"""Units of a plan as tensors, made by worker processes where asked."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from xmas.attention.plan import Spans, Unit
from xmas.models.chat.layout import FEATURE
from xmas.models.chat.tokens import TokenTable
from xmas.models.vision_cache import Pictures

Change = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Text:
    """The text behind the image of some rows, padded on the right.

    `at` are their positions among the unit's rows, `which` the unit's picture that each shows,
    `held` what is no pad, `answers` what belongs to an answer.
    """

    at: Int[Tensor, " rows"]
    which: Int[Tensor, " rows"]
    ids: Int[Tensor, "rows text"]
    held: Bool[Tensor, "rows text"]
    answers: Bool[Tensor, "rows text"]

    def each(self, change: Change) -> "Text":
        return Text(**{name: change(one) for name, one in vars(self).items()})


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A unit with its pictures, the tokens up to the end of each, and its rows' text.

    `image` are the places among these tokens that hold features of the picture, without the marks
    between its tiles; where `shown` is False, another picture of the unit has more.
    """

    unit: Unit
    pictures: dict[str, Tensor]
    opening: Int[Tensor, "pictures opening"]
    image: Int[Tensor, "pictures image"]
    shown: Bool[Tensor, "pictures image"]
    texts: list[Text]

    def each(self, change: Change) -> "Loaded":
        return dataclasses.replace(
            self,
            pictures={name: change(one) for name, one in self.pictures.items()},
            opening=change(self.opening),
            image=change(self.image),
            shown=change(self.shown),
            texts=[text.each(change) for text in self.texts],
        )

    def to(self, device: torch.device) -> "Loaded":
        return self.each(lambda one: one.to(device, non_blocking=True))

    def pin_memory(self) -> "Loaded":
        """Called by torch's loader; a copy to a GPU then waits for nothing."""
        return self.each(Tensor.pin_memory)


@dataclasses.dataclass(frozen=True)
class Feed:
    """Loads units of a pool: its tokens, their spans, its pictures."""

    table: TokenTable
    spans: Spans
    pictures: Pictures
    image_token: int
    pad: int
    workers: int = 0
    pinned: bool = False  # in memory that a GPU reads by itself

    def __call__(self, units: Sequence[Unit]) -> Iterator[Loaded]:
        yield from torch.utils.data.DataLoader(
            units,  # type: ignore[arg-type]  # a list is a map-style dataset
            batch_size=None,
            collate_fn=self.load,  # pyright: ignore[reportArgumentType]  # gets one unit
            num_workers=self.workers,
            pin_memory=self.pinned,
            generator=torch.Generator(),  # or the global generator would move
        )

    def load(self, unit: Unit) -> Loaded:
        first = unit.firsts[0]
        before = int(self.spans.before[first])
        length = int(self.spans.opening[first])
        opening = np.empty((len(unit.firsts), length), dtype=np.int64)
        for line, row in enumerate(unit.firsts.tolist()):
            held = self.table[row]
            opening[line, :before] = held.ids[:before]
            opening[line, before:] = np.where(held.image == FEATURE, self.image_token, held.image)
        spots = opening == self.image_token
        spots[:, :before] = False
        count = spots.sum(axis=1)
        width = None if unit.width is None else unit.width - length
        return Loaded(
            unit=unit,
            pictures=self.pictures(unit.firsts.tolist()),
            opening=torch.from_numpy(opening),
            image=torch.from_numpy(np.argsort(~spots, axis=1, kind="stable")[:, : count.max()]),
            shown=torch.from_numpy(np.arange(count.max())[None] < count[:, None]),
            texts=[self._text(unit, batch, width) for batch in unit.batches],
        )

    def _text(self, unit: Unit, batch: Int[np.ndarray, " rows"], width: int | None) -> Text:
        rows = unit.rows[batch]
        lengths = self.spans.text[rows]
        width = int(lengths.max()) if width is None else width
        ids = np.full((len(rows), width), self.pad, dtype=np.int64)
        answers = np.zeros((len(rows), width), dtype=bool)
        for line, (row, length) in enumerate(zip(rows.tolist(), lengths.tolist(), strict=True)):
            held = self.table[row]
            ids[line, :length] = held.ids[self.spans.before[row] :]
            answers[line, :length] = held.labelled[self.spans.before[row] :]
        return Text(
            at=torch.from_numpy(batch),
            which=torch.from_numpy(unit.which[batch]),
            ids=torch.from_numpy(ids),
            held=torch.arange(width)[None] < torch.from_numpy(lengths)[:, None],
            answers=torch.from_numpy(answers),
        )
