"""Groups of rows that show near pictures, or say nearly the same without one.

What must not be on both sides of a split: rows of one group go to one side. Two rows with pictures
are in one group although they say other things, since a model that was trained on one has seen the
picture of the other. Nearness is chained, so that no near pair is in two groups.
"""

import numpy as np
from jaxtyping import Int, UInt32, UInt64

from xmas.data.indexes.index import Shown
from xmas.data.near_copies.duplicates import Pairs, agree, components, likely_near, near_images


def near_groups(
    shown: Shown,
    hashes: UInt64[np.ndarray, "pictures 2"],
    sketches: UInt32[np.ndarray, "rows hashes"],
    *,
    distance: int,
    similarity: float,
) -> Int[np.ndarray, " rows"]:
    """A number for every row, equal for the rows of a group: that of the group's first row.

    Args:
        hashes: difference hashes of the pictures (`xmas.data.near_copies.image_hashes`).
        sketches: min-hashes of the rows' words (`xmas.data.near_copies.text_sketches`).
        distance: near pictures differ in at most this many of 128 bits, at most 7.
        similarity: near texts share at least this fraction of their words (Jaccard).
    """
    distinct, of_picture = np.unique(hashes, axis=0, return_inverse=True)
    labels = components(len(distinct), near_images(distinct, distance))[of_picture.reshape(-1)]
    texts, of_row = np.unique(sketches[shown.counts == 0], axis=0, return_inverse=True)
    alike = _tied_texts(texts, similarity)
    # A place for every row, hash and text; a row is tied to what it shows, or to what it says
    # without a picture.
    rows = len(shown)
    shows = np.stack([shown.row_of_image, rows + labels[shown.pictures]], axis=1)
    says = np.stack([np.flatnonzero(shown.counts == 0), of_row.reshape(-1)], axis=1)
    first_text = rows + len(distinct)
    says[:, 1] += first_text
    ties = np.concatenate([shows, says, alike + first_text])
    return components(first_text + len(texts), ties)[:rows]


def _tied_texts(sketches: UInt32[np.ndarray, "texts hashes"], similarity: float) -> Pairs:
    """Pairs that connect all near texts: of texts that are connected already no more pairs are
    compared or kept, or thousands of one template would give millions.
    """
    labels = np.arange(len(sketches))
    for pairs in likely_near(sketches, np.zeros(len(sketches), dtype=np.int64)):
        apart = pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]]
        near = apart[agree(sketches, apart, similarity)]
        if len(near):
            labels = components(len(labels), np.concatenate([near, _to_labels(labels)]))
    return _to_labels(labels)


def _to_labels(labels: Int[np.ndarray, " texts"]) -> Pairs:
    """Every text with the first of those it is connected to."""
    return np.stack([np.arange(len(labels)), labels], axis=1)
