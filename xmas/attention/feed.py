"""Load the units of a plan as tensors, optionally in worker processes."""

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
class Material:
    """What is measured: the tokens and images of a pool.

    Args:
        table: the tokens of every row.
        pictures: pixels or features of the images of given rows.
        picture: the number of each row's image, -1 without one.
        pad: the id of pads.
        max_length: maximum positions of a pass, for mode `released`; None: not truncated.
    """

    table: TokenTable
    pictures: Pictures
    picture: Int[np.ndarray, " rows"]
    pad: int
    max_length: int | None = None


@dataclasses.dataclass(frozen=True)
class Text:
    """The text following the image of some rows, padded on the right.

    `which`: the number of each row's image in the unit; `text_mask`: False for pads; `answers`:
    True for tokens of answers.
    """

    which: Int[Tensor, " rows"]
    ids: Int[Tensor, "rows text"]
    text_mask: Bool[Tensor, "rows text"]
    answers: Bool[Tensor, "rows text"]

    def each(self, change: Change) -> "Text":
        """Apply `change` to every tensor."""
        return Text(**{name: change(tensor) for name, tensor in vars(self).items()})


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A unit with its images, the tokens up to the end of each, and the text of its rows.

    `prefix_ids`: token ids up to the end of the image. `image`: positions among them that are
    features of the image, not separators between its tiles. `image_mask`: False for padding of
    `image`, where another image of the unit has more.
    """

    unit: Unit
    pictures: dict[str, Tensor]
    prefix_ids: Int[Tensor, "pictures prefix"]
    image: Int[Tensor, "pictures image"]
    image_mask: Bool[Tensor, "pictures image"]
    texts: list[Text]

    def each(self, change: Change) -> "Loaded":
        """Apply `change` to every tensor."""
        return dataclasses.replace(
            self,
            pictures={name: change(tensor) for name, tensor in self.pictures.items()},
            prefix_ids=change(self.prefix_ids),
            image=change(self.image),
            image_mask=change(self.image_mask),
            texts=[text.each(change) for text in self.texts],
        )

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
        image_token: the id for a feature of an image in `Loaded.prefix_ids`.
        pad: the id of pads.
        workers: processes that load; 0: this one.
        pinned: load into page-locked memory, for asynchronous copies to a GPU.
    """

    table: TokenTable
    spans: Spans
    pictures: Pictures
    image_token: int
    pad: int
    workers: int = 0
    pinned: bool = False

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
        first = unit.firsts[0]
        before = int(self.spans.before[first])
        length = int(self.spans.up_to_image_end[first])
        prefix_ids = np.empty((len(unit.firsts), length), dtype=np.int64)
        for line, row in enumerate(unit.firsts.tolist()):
            tokens = self.table[row]
            image = tokens.image
            prefix_ids[line, :before] = tokens.ids[:before]
            prefix_ids[line, before:] = np.where(image == FEATURE, self.image_token, image)
        spots = prefix_ids == self.image_token
        spots[:, :before] = False
        count = spots.sum(axis=1)
        width = None if unit.width is None else unit.width - length
        return Loaded(
            unit=unit,
            pictures=self.pictures(unit.firsts.tolist()),
            prefix_ids=torch.from_numpy(prefix_ids),
            image=torch.from_numpy(np.argsort(~spots, axis=1, kind="stable")[:, : count.max()]),
            image_mask=torch.from_numpy(np.arange(count.max())[None] < count[:, None]),
            texts=[self._text(unit, batch, width) for batch in unit.batches],
        )

    def _text(self, unit: Unit, batch: Int[np.ndarray, " rows"], width: int | None) -> Text:
        rows = unit.rows[batch]
        lengths = self.spans.text[rows]
        width = int(lengths.max()) if width is None else width
        ids = np.full((len(rows), width), self.pad, dtype=np.int64)
        answers = np.zeros((len(rows), width), dtype=bool)
        for line, (row, length) in enumerate(zip(rows.tolist(), lengths.tolist(), strict=True)):
            tokens = self.table[row]
            ids[line, :length] = tokens.ids[self.spans.before[row] :]
            answers[line, :length] = tokens.labelled[self.spans.before[row] :]
        return Text(
            which=torch.from_numpy(unit.which[batch]),
            ids=torch.from_numpy(ids),
            text_mask=torch.arange(width)[None] < torch.from_numpy(lengths)[:, None],
            answers=torch.from_numpy(answers),
        )
