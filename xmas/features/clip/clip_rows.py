"""One CLIP vector a row, for whatever clusters rows or compares them."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from xmas.features.clip.clip import ClipEmbeddings
from xmas.features.clip.embedded import Embedded, joint, unit
from xmas.store import Stage, Store

COMBINATIONS = ("concat", "mean", "image", "text")


@dataclasses.dataclass(frozen=True)
class ClipRows(Stage):
    """`values.npy` (rows, d) float16, unit vectors; (rows, 2d) where `combine` is concat.

    Of a row's picture and of the mean of its turns: `concat` puts both side by side, `mean` adds
    them, `image` and `text` take one. NaN on rows that lack what is taken: text-only rows have a
    vector under `text` alone.
    """

    kind: ClassVar[str] = "clip_rows"

    clip: ClipEmbeddings
    combine: str = "concat"  # mean, image, text
    said: str = "all"  # the turns that count: human, gpt, all

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: no such combination, or no such turns."""
        if self.combine not in COMBINATIONS:
            raise ValueError(f"combine {self.combine!r}: expected one of {', '.join(COMBINATIONS)}")
        seen = self.clip.open(store)
        width = seen.width * (2 if self.combine == "concat" else 1)
        values = np.lib.format.open_memmap(
            out / "values.npy", mode="w+", dtype=np.float16, shape=(len(seen), width)
        )
        for rows in seen.blocks():
            values[rows[0] : rows[-1] + 1] = self._of(seen, rows)
        values.flush()

    def _of(
        self, seen: Embedded, rows: Int[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows width"]:
        if self.combine == "image":
            return unit(seen.images(rows))
        text = seen.texts(rows, self.said)
        if self.combine == "text":
            return text
        image = seen.images(rows)
        return joint(image, text) if self.combine == "concat" else unit(image + text)
