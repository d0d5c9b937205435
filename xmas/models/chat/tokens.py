"""Every conversation of a pool as tokens, made once and memory-mapped.

Lengths are then known before any training, conversations that cannot be trained on are found before
any GPU time is spent, and neither a fit nor a scan tokenises again. Image tokens are not stored:
a layout makes them again, from the image's size where they follow from that.
"""

import dataclasses
import logging
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Int

from xmas.data.faults import NAMED
from xmas.data.images.files import image_size
from xmas.data.pool import Pool
from xmas.data.rows import PoolError, Rows
from xmas.data.turns import Turn
from xmas.models.chat.labels import Encoder, ImageCutError, Tokens
from xmas.models.chat.layout import Fixed, HasLayout, Layout, text_around, tokens_of_row
from xmas.models.chat.own_template import OwnTemplate
from xmas.models.chat.template import Plain, Template
from xmas.store import Made, Stage, Store
from xmas.store.progress import bar

log = logging.getLogger(__name__)

MORE = "more_images.npy"


@dataclasses.dataclass(frozen=True)
class Tokenised(Stage):
    """`ids.bin` int32 and `labelled.bin` bool, all rows joined; `offsets.npy` (rows + 1) int64,
    where rows start; `image_at.npy` (rows,) int32, where in a row its first image goes, -1 without
    one; `image_lengths.npy` (rows,) int32, tokens of its images; `image_sizes.npy` (rows, 2) int32,
    height and width of the first in pixels, where the tokens follow from them, else (0, 0);
    `more_images.npy` (images, 4) int32, only where rows have several: row, position, height and
    width of each of the others. `answered.npy` (rows,) bool: rows with a labelled token. A fit
    leaves the others out: their answers are empty or after the cut. A row with an image after the
    cut is one of these, its text kept.
    """

    kind: ClassVar[str] = "tokens"
    version: ClassVar[int] = 3  # rows without an answer are kept; images in later questions

    pool: Pool
    tokenizer: str | Made  # a folder, or a name on the hub
    template: Template | Plain | OwnTemplate = dataclasses.field(default_factory=Template)
    image: int | HasLayout = 576  # tokens of any image, or the start point that knows them
    max_length: int = 2048  # tokens of a row, the image counted

    def encoder(self, store: Store) -> Encoder:
        from transformers import AutoTokenizer

        source = self.tokenizer
        name = store.find(source) if isinstance(source, Made) else source
        layout = self.layout(store)
        return Encoder(
            AutoTokenizer.from_pretrained(name),
            self.template,
            literal=layout.literal,
            around=text_around(layout),
            max_length=self.max_length,
        )

    def turns(self, examples: Rows, row: int) -> list[Turn]:
        """The conversation of a row that becomes tokens."""
        return examples.turns(row)

    def layout(self, store: Store) -> Layout:
        return Fixed(self.image) if isinstance(self.image, int) else self.image.layout(store)

    def compute(self, store: Store, out: Path) -> None:
        """Raises PoolError: no row has an answer, or `max_length` cuts most of the images."""
        examples = self.pool.open(store)
        encoder, layout = self.encoder(store), self.layout(store)
        offsets = np.zeros(len(examples) + 1, dtype=np.int64)
        image_at, image_lengths = np.zeros((2, len(examples)), dtype=np.int32)
        sizes = np.zeros((len(examples), 2), dtype=np.int32)
        answered = np.zeros(len(examples), dtype=bool)
        more: list[tuple[int, int, int, int]] = []
        cut: dict[int, ImageCutError] = {}
        with (out / "ids.bin").open("wb") as ids, (out / "labelled.bin").open("wb") as labelled:
            for row in bar(range(len(examples)), label="tokens"):
                turns = self.turns(examples, row)
                row_sizes = [(0, 0)] * len(examples.shown[row])
                try:
                    if layout.by_size:
                        images = examples.images_of(row)
                        row_sizes = [image_size(image, examples.max_pixels) for image in images]
                    tokens = encoder.turns(turns, tokens_of_row(layout, row_sizes))
                except ImageCutError as error:
                    cut[examples.file_row(row)] = error
                    text = encoder.turns(
                        [dataclasses.replace(turn, images=()) for turn in turns], []
                    )
                    tokens = dataclasses.replace(text, labelled=np.zeros_like(text.labelled))
                except ValueError as error:
                    place = f"{examples.annotations}: row {examples.file_row(row)}"
                    raise PoolError(f"{place}: {error}") from error
                if tokens.places:
                    sizes[row] = row_sizes[0]
                    others = zip(tokens.places[1:], row_sizes[1:], strict=True)
                    more += [(row, place, *size) for place, size in others]
                ids.write(tokens.ids.tobytes())
                labelled.write(tokens.labelled.tobytes())
                offsets[row + 1] = offsets[row] + len(tokens.ids)
                image_at[row] = tokens.image_at
                image_lengths[row] = len(tokens) - len(tokens.ids)
                answered[row] = tokens.labelled.any()
        self._report_cut(cut, int(examples.has_image.sum()), str(examples.annotations))
        self._report(examples, answered)
        np.save(out / "answered.npy", answered)
        np.save(out / "offsets.npy", offsets)
        np.save(out / "image_at.npy", image_at)
        np.save(out / "image_lengths.npy", image_lengths)
        np.save(out / "image_sizes.npy", sizes)
        if more:
            np.save(out / MORE, np.array(more, dtype=np.int32))

    def _report_cut(self, cut: dict[int, ImageCutError], images: int, annotations: str) -> None:
        """Say which rows lose their image. Raises PoolError: most of those that have one."""
        if not cut:
            return
        row, error = next(iter(cut.items()))
        rows = ", ".join(map(str, list(cut)[:NAMED])) + (", ..." if len(cut) > NAMED else "")
        message = f"{annotations}: row {row}: {error}"
        message += f". So it is with {len(cut)} of {images} rows with an image: {rows}"
        if 2 * len(cut) > images:
            raise PoolError(message)
        log.warning("%s; no fit and no attention scan sees them", message)

    def _report(self, examples: Rows, answered: Bool[np.ndarray, " rows"]) -> None:
        """Say which rows a fit will leave out. Raises PoolError: all of them."""
        without = np.flatnonzero(~answered)
        if not len(without):
            return
        message = (
            f"{examples.annotations}: {len(without)} of {len(answered)} rows have no answer within "
            f"max_length {self.max_length}, first row {examples.file_row(int(without[0]))}"
        )
        if len(without) == len(answered):
            raise PoolError(f"{message}; raise max_length or fix the rows")
        log.warning("%s: no fit sees them", message)

    def open(self, store: Store) -> "TokenTable":
        return TokenTable(store.get(self), self.layout(store))


class TokenTable:
    """A `Tokenised` result, memory-mapped. `lengths` counts text and image tokens of every row;
    `image_at` is the position of a row's first image, -1 without one.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.layout = layout
        self.offsets = np.load(folder / "offsets.npy")
        self.image_at = np.load(folder / "image_at.npy")
        self.answered: Bool[np.ndarray, " rows"] = np.load(folder / "answered.npy")
        self.image_lengths: Int[np.ndarray, " rows"] = np.load(folder / "image_lengths.npy")
        self._sizes = np.load(folder / "image_sizes.npy", mmap_mode="r")
        more = folder / MORE
        self._more = np.load(more) if more.exists() else np.zeros((0, 4), dtype=np.int32)
        self.image_counts: Int[np.ndarray, " rows"] = (self.image_at >= 0) + np.bincount(
            self._more[:, 0], minlength=len(self)
        )
        self._ids = np.asarray(np.memmap(folder / "ids.bin", dtype=np.int32, mode="r"))
        self._labelled = np.asarray(np.memmap(folder / "labelled.bin", dtype=bool, mode="r"))
        self.text_lengths: Int[np.ndarray, " rows"] = np.diff(self.offsets)
        self.lengths: Int[np.ndarray, " rows"] = self.text_lengths + self.image_lengths

    def __len__(self) -> int:
        return len(self.image_at)

    def __getitem__(self, row: int) -> Tokens:
        span = slice(self.offsets[row], self.offsets[row + 1])
        places, sizes = self._images(row)
        images = tuple(tokens_of_row(self.layout, sizes))
        return Tokens(self._ids[span], self._labelled[span], places, images)

    def _images(self, row: int) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
        """The places and sizes of a row's images."""
        if self.image_at[row] < 0:
            return (), []
        first, stop = np.searchsorted(self._more[:, 0], [row, row + 1])
        others = self._more[first:stop]
        places = (int(self.image_at[row]), *others[:, 1].tolist())
        return places, [_size(self._sizes[row]), *map(_size, others[:, 2:])]

    def answers(self, row: int) -> int:
        """Tokens of a row that a loss counts: the labelled ones after its first token."""
        labelled = self._labelled[self.offsets[row] : self.offsets[row + 1]]
        opens = bool(labelled[:1].any()) and self.image_at[row] != 0
        return int(labelled.sum()) - int(opens)

    def ids(self, row: int) -> Int[np.ndarray, " text"]:
        """The text tokens of a row, without those of its images."""
        return self._ids[self.offsets[row] : self.offsets[row + 1]]


def _size(pixels: Int[np.ndarray, "2"]) -> tuple[int, int]:
    return int(pixels[0]), int(pixels[1])
