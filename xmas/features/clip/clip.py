"""CLIP embeddings of a pool: every distinct image and every turn once, shared by all selectors.

Every turn has an embedding, so that one pass serves methods that use questions, answers or both.
"""

import dataclasses
import functools
import itertools
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from xmas.data.images.broken import all_named, read_picture
from xmas.data.images.seen import note
from xmas.data.pool import Pool
from xmas.data.rows import Rows, Shown
from xmas.features.clip.clip_model import Clip, fingerprint
from xmas.features.clip.embedded import HUMAN, MODEL, Embedded
from xmas.models.device import device_for
from xmas.store import Stage, Store, distributed, volatile
from xmas.store.arrays import ArrayInParts
from xmas.store.progress import bar
from xmas.training.fit.recipe import Hardware

log = logging.getLogger(__name__)

PLACES, NUMBERS = "image_offsets.npy", "image_numbers.npy"


@dataclasses.dataclass(frozen=True)
class ClipEmbeddings(Stage):
    """Unit vectors of a frozen CLIP for the images and turns of a pool, float16.

    Writes `image.npy` (pictures, d), one vector per distinct image in the order of their names;
    `picture.npy` (rows,) int64, the index into it of a row's first image, -1 without one; where
    rows have several, `image_numbers.npy`, those of all images, of row r from
    `image_offsets.npy`[r] to [r + 1]; `text.npy` (turns, d),
    one vector per turn, zeros for an empty turn; `offsets.npy` (rows + 1,) int64, the turns of row
    r are [offsets[r], offsets[r + 1]); `roles.npy` (turns,) int8, 0 human, 1 model; `clip.json`:
    which CLIP. A first turn of the model is dropped, as in training.

    All ranks share the blocks; an interrupted pass resumes after its last finished one. The other
    members of a batch change a vector by no more than the rounding of a matrix product.

    Args:
        clip: a stage with a `CLIPModel` folder and its tokenizer.
        precision: of the model's weights: float32, bfloat16, float16.
        image_batch: images in one forward pass.
        text_batch: distinct texts in one forward pass.
        threads: that decode images.
        image_block: batches of images between two checkpoints.
        text_block: rows whose turns are encoded together, short ones first, and checkpointed.
        hardware: whose accelerator runs the model.
    """

    kind: ClassVar[str] = "clip_embeddings"
    together: ClassVar[bool] = True

    pool: Pool
    clip: Stage | None
    precision: str = "float32"
    image_batch: int = 64
    text_batch: int = 256
    threads: int = volatile(8)
    image_block: int = volatile(16)
    text_block: int = volatile(2048)
    hardware: Hardware = volatile(default_factory=Hardware)

    def compute(self, store: Store, out: Path) -> None:
        """Raises:
        PoolError: an image is missing or damaged; names the row.
        FloatingPointError: an embedding is not finite; names the row.
        ValueError: no CLIP is given.
        """
        if self.clip is None:
            raise ValueError(
                "clip=small, but this start point trains no CLIP: name one of the hub or a folder, "
                "clip=openai/clip-vit-base-patch32"
            )
        examples = self.pool.open(store)
        folder = store.get(self.clip)
        clip = Clip(folder, self.precision, device_for(self.hardware.accelerator))
        counts = [2 * len(examples.conversation(row)) for row in range(len(examples))]
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        with all_named(examples, out):
            self._images(examples, clip, out)
        self._texts(examples, offsets, clip, out)
        if distributed.rank_and_world()[0] > 0:
            return
        np.save(out / "picture.npy", examples.shown.first)
        self._several(examples, out)
        np.save(out / "offsets.npy", offsets)
        np.save(out / "roles.npy", np.tile([HUMAN, MODEL], offsets[-1] // 2).astype(np.int8))
        origin = {"weights": fingerprint(folder), "width": clip.width, "text_tokens": clip.length}
        (out / "clip.json").write_text(json.dumps(origin, indent=2))
        note(self.pool, examples, out)

    def _several(self, examples: Rows, out: Path) -> None:
        several = int((examples.shown.counts > 1).sum())
        if several:
            np.save(out / PLACES, examples.shown.offsets)
            np.save(out / NUMBERS, examples.shown.pictures)
            log.info(
                "%s: %d of %d rows have several images; the mean of their vectors stands for them",
                *(examples.annotations, several, len(examples)),
            )

    def _images(self, examples: Rows, clip: Clip, out: Path) -> None:
        count = len(examples.picture_names)
        first_row = examples.shown.row_of_image[examples.shown.first_image]

        def prepared(number: int) -> Tensor:
            return clip.pixels(read_picture(examples, number))

        size = self.image_batch * self.image_block
        with ThreadPoolExecutor(self.threads) as decoders:
            for span, write in _blocks(out, "image", count, clip.width, size):
                block = range(span.start, span.stop)
                vectors = []
                batches = [
                    block[first : first + self.image_batch]
                    for first in range(0, len(block), self.image_batch)
                ]
                ahead = decoders.map(prepared, batches[0])  # decoded while the model runs
                for batch, following in itertools.pairwise([*batches, range(0)]):
                    pixels, ahead = list(ahead), decoders.map(prepared, following)
                    embeddings = clip.images(pixels)
                    _check(embeddings, [f"the image of row {first_row[it]}" for it in batch])
                    vectors.append(embeddings)
                write(np.concatenate(vectors))

    def _texts(
        self, examples: Rows, offsets: Int[np.ndarray, " bounds"], clip: Clip, out: Path
    ) -> None:
        borders = [*offsets[: -1 : self.text_block].tolist(), int(offsets[-1])]
        for span, write in _blocks(out, "text", int(offsets[-1]), clip.width, borders):
            rows = range(*np.searchsorted(offsets, [span.start, span.stop]).tolist())
            first_row = {"": -1}  # of every distinct text
            turns = []
            for row in rows:
                for text in itertools.chain(*examples.conversation(row)):
                    turns.append(text.strip())
                    first_row.setdefault(turns[-1], row)
            number = {text: place for place, text in enumerate(sorted(first_row, key=len))}
            distinct = np.zeros((len(number), clip.width), dtype=np.float16)  # the first is empty
            texts = list(number)
            for first in range(1, len(texts), self.text_batch):
                batch = texts[first : first + self.text_batch]
                embeddings = clip.texts(batch)
                _check(embeddings, [f"a turn of row {first_row[text]}" for text in batch])
                distinct[first : first + len(batch)] = embeddings
            write(distinct[[number[text] for text in turns]])

    def open(self, store: Store) -> Embedded:
        """The embeddings, memory-mapped; computed if they are not there."""
        folder = store.get(self)
        image, picture, text, offsets, roles = (
            np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in ("image", "picture", "text", "offsets", "roles")
        )
        weights = json.loads((folder / "clip.json").read_text())["weights"]
        shown = None
        if (folder / PLACES).exists():
            shown = Shown(np.load(folder / PLACES), np.load(folder / NUMBERS))
        return Embedded(image, picture, text, offsets, roles, weights, shown)


def _blocks(
    out: Path, name: str, count: int, width: int, size: int | list[int]
) -> Iterator[tuple[slice, Callable[[Float[np.ndarray, "vectors width"]], None]]]:
    """Each block of `<name>.npy` that this rank has yet to fill, with the function that does.

    Args:
        count: vectors in the file, of `width` values.
        size: vectors in a block, or the borders of all blocks.
    """
    borders = [*range(0, count, size), count] if isinstance(size, int) else size
    blocks = [slice(start, stop) for start, stop in itertools.pairwise(borders)]
    array = ArrayInParts(out / f"{name}.npy", np.float16, (count, width), blocks)
    total = array.rows(array.own)
    initial = total - array.rows(array.todo)
    label = f"clip, {name}"
    with bar(total=total, label=label, unit=name, initial=initial, whole=False) as progress:
        for number in array.todo:
            yield blocks[number], functools.partial(array.write, number)
            progress.update(array.rows([number]))
    array.finish()


def _check(values: Float[np.ndarray, "lines width"], names: list[str]) -> None:
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise FloatingPointError(
            f"CLIP: {names[int(np.argmax(bad))]} has an embedding that is not finite; "
            "set features.clip.precision=float32, or check the weights"
        )
