"""One CLIP vector per row, for selectors that cluster or compare rows."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from xmas.features.clip.clip import ClipEmbeddings
from xmas.features.clip.embedded import Embedded, joint, unit
from xmas.store import Stage, Store
from xmas.store.arrays import new_array

COMBINATIONS = ("concat", "mean", "image", "text")


@dataclasses.dataclass(frozen=True)
class ClipRows(Stage):
    """Unit vectors that combine the embedding of a row's image with the mean of its turns'.

    Writes `values.npy` (rows, d) float16, or (rows, 2d) if `combine` is concat; NaN on rows that
    lack a part: text-only rows have a vector under `text` only.

    Args:
        combine: `concat`: both, one after the other; `mean`: their sum, normalised; `image` or
            `text`: one of them.
        said: the turns that count: human, gpt, all.
    """

    kind: ClassVar[str] = "clip_rows"

    clip: ClipEmbeddings
    combine: str = "concat"
    said: str = "all"

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: no such combination, or no such turns."""
        if self.combine not in COMBINATIONS:
            raise ValueError(f"combine {self.combine!r}: expected one of {', '.join(COMBINATIONS)}")
        embeddings = self.clip.open(store)
        width = embeddings.width * (2 if self.combine == "concat" else 1)
        values = new_array(out / "values.npy", np.float16, (len(embeddings), width))
        for rows in embeddings.blocks():
            values[rows[0] : rows[-1] + 1] = self._of(embeddings, rows)
        values.flush()

    def _of(
        self, embedded: Embedded, rows: Int[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows width"]:
        if self.combine == "image":
            return unit(embedded.images(rows))
        text = embedded.texts(rows, self.said)
        if self.combine == "text":
            return text
        image = embedded.images(rows)
        return joint(image, text) if self.combine == "concat" else unit(image + text)
