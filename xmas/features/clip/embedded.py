"""Opened CLIP embeddings: the vectors of rows' images and texts."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from xmas.data.rows import Shown

HUMAN, MODEL = 0, 1
SPEAKERS = {"human": (HUMAN,), "gpt": (MODEL,), "all": (HUMAN, MODEL)}


@dataclasses.dataclass(frozen=True)
class Embedded:
    """The files of `ClipEmbeddings`, memory-mapped.

    Attributes:
        image, picture, text, offsets, roles: see `ClipEmbeddings`.
        weights: the fingerprint of the CLIP.
        shown: the images of every row, where some have several; None: one at most.
    """

    image: Float[np.ndarray, "pictures d"]
    picture: Int[np.ndarray, " rows"]
    text: Float[np.ndarray, "turns d"]
    offsets: Int[np.ndarray, " bounds"]
    roles: Int[np.ndarray, " turns"]
    weights: str
    shown: Shown | None = None

    def __len__(self) -> int:
        return len(self.picture)

    @property
    def width(self) -> int:
        return self.text.shape[1]

    def blocks(self, size: int = 8192) -> Iterator[Int[np.ndarray, " rows"]]:
        """All rows, in blocks of `size`."""
        return (
            np.arange(start, min(start + size, len(self))) for start in range(0, len(self), size)
        )

    def images(self, rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows d"]:
        """The image vectors of rows, float32; NaN on rows without an image.

        Of a row with several images their mean, as a unit vector.
        """
        picture = self.picture[rows]
        vectors = np.full((len(rows), self.width), np.nan, dtype=np.float32)
        vectors[picture >= 0] = self.image[picture[picture >= 0]]
        if self.shown is not None:
            for place in np.flatnonzero(self.shown.counts[rows] > 1):
                several = self.image[self.shown[rows[place]]].astype(np.float32)
                vectors[place] = unit(several.mean(axis=0, keepdims=True))[0]
        return vectors

    def texts(self, rows: Int[np.ndarray, " rows"], speakers: str) -> Float[np.ndarray, "rows d"]:
        """The mean of every row's turns as a unit vector, float32; NaN on rows without text.

        Args:
            speakers: whose turns count: human, gpt or all.

        Raises:
            ValueError: there are no such turns.
        """
        if speakers not in SPEAKERS:
            raise ValueError(f"said {speakers!r}: expected one of {', '.join(SPEAKERS)}")
        firsts, counts = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        begins = np.cumsum(counts) - counts
        turns = np.arange(counts.sum()) + np.repeat(firsts - begins, counts)
        count = np.isin(self.roles[turns], SPEAKERS[speakers])
        begins = np.concatenate([[0], np.cumsum(count)])[np.append(begins, len(turns))]
        sums = np.zeros((len(rows), self.width), dtype=np.float32)
        has = np.flatnonzero(np.diff(begins))
        if len(has):
            values = self.text[turns[count]].astype(np.float32)
            sums[has] = np.add.reduceat(values, begins[has], axis=0)
        return unit(sums)


def unit(values: Float[np.ndarray, "rows d"]) -> Float[np.ndarray, "rows d"]:
    """Every row divided by its Euclidean norm, NaN where that is zero."""
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(norms > 0, norms, np.nan)


def joint(
    image: Float[np.ndarray, "rows d"], text: Float[np.ndarray, "rows d"]
) -> Float[np.ndarray, "rows 2*d"]:
    """Image and text vector, one after the other, as a unit vector; NaN if one is missing."""
    whole = unit(np.concatenate([image, text], axis=1))
    whole[np.isnan(whole).any(axis=1)] = np.nan
    return whole
