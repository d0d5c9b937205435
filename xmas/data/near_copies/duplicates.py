"""Rows of a pool that say the same of the same image, exactly or nearly.

Two rows are near each other if their images are, or neither has one, and their word sets are: many
rows ask one question of different images, and many images have several different questions.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Int, UInt32, UInt64

from xmas.data.near_copies.image_hashes import ImageHashes, distances
from xmas.data.near_copies.text_sketches import HASHES, Texts
from xmas.data.pool import Pool
from xmas.data.rows import Shown
from xmas.store import Stage, Store, nearest_stages

_BAND = 4  # min-hashes: two sets with a similarity of 0.8 share one of 16 bands at 99.98 %

Pairs = Int[np.ndarray, "pairs 2"]


def pairs_of_equal(keys: np.ndarray) -> Iterator[Pairs]:
    """All pairs of places with the same key, the lower place first, in batches."""
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    starts = np.arange(len(keys))
    for step in range(1, len(keys)):
        starts = starts[starts + step < len(keys)]
        starts = starts[sorted_keys[starts] == sorted_keys[starts + step]]
        if len(starts) == 0:
            return
        yield np.stack([order[starts], order[starts + step]], axis=1)


def near_images(hashes: UInt64[np.ndarray, "images 2"], distance: int) -> Pairs:
    """All pairs of different hashes, as places in `hashes`, that differ in `distance` bits at most.

    Two that differ in fewer bits than there are bands agree in a whole band. Raises ValueError:
    `distance` is not within 0 and 7, the most that is found without fail.
    """
    # From all over the image: or all pages with a white margin would agree in a band.
    bits = np.unpackbits(hashes.view(np.uint8), axis=1)[
        :, np.random.default_rng(0).permutation(128)
    ]
    bands = np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint16)
    if not 0 <= distance < bands.shape[1]:
        raise ValueError(f"distance {distance}: expected 0 to {bands.shape[1] - 1} bits")
    batches = [np.zeros((0, 2), dtype=np.int64)]
    for band in range(bands.shape[1]):
        for pairs in pairs_of_equal(bands[:, band]):
            near = distances(hashes[pairs[:, 0]], hashes[pairs[:, 1]]) <= distance
            batches.append(pairs[near])
    return np.unique(np.concatenate(batches), axis=0)


def components(count: int, pairs: Pairs) -> Int[np.ndarray, " places"]:
    """A label for every place, the same for places that pairs connect: the lowest of them."""
    labels = np.arange(count)
    while True:
        lowest = labels.copy()
        for place, partner in (pairs.T, pairs.T[::-1]):
            np.minimum.at(lowest, place, labels[partner])
        lowest = lowest[lowest]
        if np.array_equal(lowest, labels):
            return labels
        labels = lowest


def near_texts(
    sketches: UInt32[np.ndarray, "rows hashes"],
    groups: Int[np.ndarray, " rows"],
    similarity: float,
) -> Pairs:
    """All pairs of rows of one group whose sketches agree in at least a share `similarity`."""
    batches = [np.zeros((0, 2), dtype=np.int64)]
    for pairs in likely_near(sketches, groups):
        first, second = pairs.T
        near = agree(sketches, pairs, similarity) & (groups[first] == groups[second])
        batches.append(pairs[near])
    return np.unique(np.concatenate(batches), axis=0)


def agree(
    sketches: UInt32[np.ndarray, "rows hashes"], pairs: Pairs, similarity: float
) -> Bool[np.ndarray, " pairs"]:
    """Whether the sketches of the rows of a pair agree in at least a share `similarity`."""
    return (sketches[pairs[:, 0]] == sketches[pairs[:, 1]]).mean(axis=1) >= similarity


def likely_near(
    sketches: UInt32[np.ndarray, "rows hashes"], groups: Int[np.ndarray, " rows"]
) -> Iterator[Pairs]:
    """Pairs of rows that agree in a band of their sketches, in batches; most are of one group."""
    mixed = groups.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for start in range(0, HASHES, _BAND):
        keys = mixed.copy()
        for column in range(start, start + _BAND):  # one number of the group and four min-hashes
            keys = (keys ^ sketches[:, column]) * np.uint64(0xFF51AFD7ED558CCD)
            keys ^= keys >> np.uint64(32)
        yield from pairs_of_equal(keys)


@dataclasses.dataclass(frozen=True)
class Duplicates(Stage):
    """`exact.npy` (rows,) int64, the first row with the same conversation and the same image file;
    `near.npy` (pairs, 2) int64, rows near each other, exact duplicates included.

    Without `images` their names stand for them. `similarity` of the words is estimated from 64
    min-hashes, so a pair at the border may fall on either side; 0.8 is the field's usual border.
    """

    kind: ClassVar[str] = "duplicates"

    pool: Pool
    images: bool = True  # compared by their hashes; false: by their names
    distance: int = 7  # near images differ in at most this many of 128 bits
    similarity: float = 0.8  # Jaccard, of the words of near texts, at least

    def inputs(self) -> list[Stage]:
        hashed = [ImageHashes(self.pool)] if self.images else []
        return [*nearest_stages(self.pool), Texts(self.pool), *hashed]

    def compute(self, store: Store, out: Path) -> None:
        examples = self.pool.open(store)
        texts = store.get(Texts(self.pool))
        digests, sketches = np.load(texts / "digests.npy"), np.load(texts / "sketches.npy")
        pictures = len(examples.picture_names)
        same = groups = np.arange(pictures)
        hashes = np.zeros((pictures, 2), dtype=np.uint64)
        if self.images:
            folder = store.get(ImageHashes(self.pool))
            files = np.load(folder / "sha256.npy")
            same = np.unique(files, axis=0, return_inverse=True)[1].reshape(-1)
            hashes = np.load(folder / "seen.npy")
            distinct, of_picture = np.unique(hashes, axis=0, return_inverse=True)
            near = near_images(distinct, self.distance)
            groups = components(len(distinct), near)[of_picture.reshape(-1)]
        identity = np.column_stack([digests, examples.shown.combined(same).astype(np.uint64)])
        _, first, which = np.unique(identity, axis=0, return_index=True, return_inverse=True)
        np.save(out / "exact.npy", first[which.reshape(-1)])
        pairs = near_texts(sketches, examples.shown.combined(groups), self.similarity)
        if self.images and pictures:  # a chain of near images may connect two that are not
            pairs = pairs[apart(examples.shown, pairs, hashes) <= self.distance]
        np.save(out / "near.npy", pairs)


def apart(
    shown: Shown, pairs: Int[np.ndarray, "pairs 2"], hashes: UInt64[np.ndarray, "pictures 2"]
) -> Int[np.ndarray, " pairs"]:
    """Bits by which the images of two rows differ, the largest of several; 0 without images.

    The rows of a pair have equally many.
    """
    worst = np.zeros(len(pairs), dtype=np.int64)
    counts = shown.counts[pairs[:, 0]]
    for place in range(int(counts.max(initial=0))):
        has = counts > place
        first, second = shown.pictures[shown.offsets[pairs[has]] + place].T
        worst[has] = np.maximum(worst[has], distances(hashes[first], hashes[second]))
    return worst
