"""CLIP embeddings of a pool: every distinct picture and every turn once, shared by all who ask.

Turns are kept apart, so that one pass serves methods that look at questions, at answers, or at
both.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from xmas.data.pool import Pool
from xmas.data.rows import Rows
from xmas.features.clip.clip_model import Clip, fingerprint
from xmas.features.clip.embedded import HUMAN, MODEL, Embedded
from xmas.models.vision_cache import first_rows, read_image
from xmas.store import Stage, Store, volatile, write_atomically
from xmas.store.progress import bar

_ROWS = 2048  # whose turns are encoded together, short ones first; a block of the text pass
_BATCHES = 16  # a block of the image pass


@dataclasses.dataclass(frozen=True)
class ClipEmbeddings(Stage):
    """Unit vectors of a frozen CLIP, float16.

    `image.npy` (pictures, d), a line for each distinct picture in the order of their names;
    `picture.npy` (rows,) int64, a row's line in it, -1 without an image; `text.npy` (turns, d), a
    line for each turn, zeros for a turn without text; `offsets.npy` (rows + 1,) int64, row r has
    the lines [offsets[r], offsets[r + 1]); `roles.npy` (turns,) int8, 0 human, 1 model; `clip.json`
    which CLIP this is. A first turn of the model is dropped, as in training.

    Blocks that are done are kept when a pass is interrupted. What else is in a batch does not
    change a line beyond the rounding of a matrix product.
    """

    kind: ClassVar[str] = "clip_embeddings"

    pool: Pool
    clip: Stage | None  # a `CLIPModel` folder with tokenizer
    precision: str = "float32"  # of the model's weights: bfloat16, float16
    image_batch: int = 64
    text_batch: int = 256
    threads: int = volatile(8)  # that decode images

    def compute(self, store: Store, out: Path) -> None:
        """Raises PoolError: an image is missing or damaged; FloatingPointError: an embedding is not
        finite; both name the row. ValueError: no CLIP is given.
        """
        if self.clip is None:
            raise ValueError(
                "features.clip.clip is null, as this start trains no CLIP of its own: "
                "take one of the hub with features@features.clip=clip_released, or clip_folder"
            )
        examples = self.pool.open(store)
        folder = store.get(self.clip)
        clip = Clip(folder, self.precision)
        np.save(out / "picture.npy", examples.picture)
        self._turns(examples, out)
        self._images(examples, clip, out)
        self._texts(examples, clip, out)
        known = {"weights": fingerprint(folder), "width": clip.width, "text_tokens": clip.length}
        (out / "clip.json").write_text(json.dumps(known, indent=2))
        for record in out.glob("*.done"):
            record.unlink()

    def _turns(self, examples: Rows, out: Path) -> None:
        counts = [2 * len(examples.conversation(row)) for row in range(len(examples))]
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        np.save(out / "offsets.npy", offsets)
        np.save(out / "roles.npy", np.tile([HUMAN, MODEL], offsets[-1] // 2).astype(np.int8))

    def _images(self, examples: Rows, clip: Clip, out: Path) -> None:
        rows = first_rows(examples)

        def prepared(row: int) -> Tensor:
            return clip.pixels(read_image(examples, row))

        size = self.image_batch * _BATCHES
        with ThreadPoolExecutor(self.threads) as decoders:
            for start, stop, lines in _blocks(out, "image", len(rows), clip.width, size):
                block = rows[start:stop].tolist()
                batches = [
                    block[first : first + self.image_batch]
                    for first in range(0, len(block), self.image_batch)
                ]
                ahead = decoders.map(prepared, batches[0])  # while the model is busy
                for batch, following in itertools.pairwise([*batches, []]):
                    pixels, ahead = list(ahead), decoders.map(prepared, following)
                    found = clip.images(pixels)
                    _check(found, [f"the image of row {row}" for row in batch])
                    lines[start : start + len(batch)] = found
                    start += len(batch)

    def _texts(self, examples: Rows, clip: Clip, out: Path) -> None:
        offsets = np.load(out / "offsets.npy")
        borders = [*offsets[:-1:_ROWS].tolist(), int(offsets[-1])]
        for start, stop, lines in _blocks(out, "text", int(offsets[-1]), clip.width, borders):
            rows = range(*np.searchsorted(offsets, [start, stop]).tolist())
            known = {"": -1}  # every different text, the row that has it first
            said = []
            for row in rows:
                for text in (text for both in examples.conversation(row) for text in both):
                    said.append(text.strip())
                    known.setdefault(said[-1], row)
            number = {text: place for place, text in enumerate(sorted(known, key=len))}
            found = np.zeros((len(number), clip.width), dtype=np.float16)  # the first is empty
            texts = list(number)
            for first in range(1, len(texts), self.text_batch):
                batch = texts[first : first + self.text_batch]
                values = clip.texts(batch)
                _check(values, [f"a turn of row {known[text]}" for text in batch])
                found[first : first + len(batch)] = values
            lines[start:stop] = found[[number[text] for text in said]]

    def open(self, store: Store) -> Embedded:
        folder = store.get(self)
        image, picture, text, offsets, roles = (
            np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in ("image", "picture", "text", "offsets", "roles")
        )
        weights = json.loads((folder / "clip.json").read_text())["weights"]
        return Embedded(image, picture, text, offsets, roles, weights)


def _blocks(
    out: Path, name: str, count: int, width: int, size: int | list[int]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """(start, stop, all lines) of each block of `<name>.npy` that is yet to be filled.

    `size` is that of the blocks, or their borders. A block counts as done, also for a later
    attempt, once the next one is asked for.
    """
    place, record = out / f"{name}.npy", out / f"{name}.done"
    borders = [*range(0, count, size), count] if isinstance(size, int) else size
    done = int(record.read_text()) if record.exists() else 0
    lines = np.lib.format.open_memmap(
        place, mode="r+" if done else "w+", dtype=np.float16, shape=(count, width)
    )
    with bar(total=count, label=f"clip, {name}", unit=name, initial=done) as progress:
        for start, stop in itertools.pairwise(borders):
            if stop <= done:
                continue
            yield start, stop, lines
            lines.flush()
            write_atomically(record, lambda path, stop=stop: path.write_text(str(stop)))
            progress.update(stop - start)
    lines.flush()


def _check(values: Float[np.ndarray, "lines width"], names: list[str]) -> None:
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise FloatingPointError(
            f"CLIP: {names[int(np.argmax(bad))]} has an embedding that is not finite; "
            "set features.clip.precision=float32, or look at the weights"
        )
