"""A training order whose microbatches have rows of about equal length, images counted.

LLaVA's order gives every microbatch of a step long rows and short ones, of equal sums: padded, a
short row then costs as much as the longest of its microbatch, and where images differ in size the
longest has many times the tokens of the shortest.
"""

import numpy as np
from jaxtyping import Bool, Int

WINDOW = 16  # steps whose rows are sorted together; transformers' group_by_length has 50
IMAGE_WORK = 1.0  # of an image token in the tower, in text tokens of the language model: from 0.15
# (Qwen3-VL-8B) to 4 (SmolVLM-256M); it decides only which microbatches run at a time


def alike_order(
    lengths: Int[np.ndarray, " rows"],
    image_lengths: Int[np.ndarray, " rows"],
    has_image: Bool[np.ndarray, " rows"],
    *,
    micro: int,
    world: int,
    tower: bool,
    rng: np.random.Generator,
) -> Int[np.ndarray, " rows"]:
    """Positions 0..rows-1, to be cut into consecutive microbatches of `micro`.

    As in LLaVA's order each kind is shuffled and cut, here into windows of several steps, and what
    does not fill a step goes to the end. Within a window rows are sorted by length and cut into
    microbatches, these by their work with pads, most first, into steps of `world` each: devices
    that take microbatches in turn then have equally much to do, however many they are. The steps of
    all windows are shuffled together.

    Args:
        lengths: tokens of the rows, images counted.
        image_lengths: tokens of their images alone.
        tower: whether the vision tower runs in a step, as it does where its features are not
            cached.
    """
    step = micro * world
    weight = IMAGE_WORK if tower else 0.0
    steps, rest = [], []
    for kind in (np.flatnonzero(has_image), np.flatnonzero(~has_image)):
        order = kind[rng.permutation(len(kind))]
        whole = len(order) // step * step
        for start in range(0, whole, WINDOW * step):
            window = order[start : min(start + WINDOW * step, whole)]
            steps += np.split(
                _sorted(window, lengths, image_lengths, micro, weight), len(window) // step
            )
        rest.append(order[whole:])
    shuffled = [steps[place] for place in rng.permutation(len(steps))]
    last = _sorted(np.concatenate(rest), lengths, image_lengths, micro, weight)
    return np.concatenate([*shuffled, last])


def _sorted(
    part: Int[np.ndarray, " part"],
    lengths: Int[np.ndarray, " rows"],
    image_lengths: Int[np.ndarray, " rows"],
    micro: int,
    weight: float,
) -> Int[np.ndarray, " part"]:
    """Rows in microbatches of similar lengths; one that is not full stays last."""
    by_length = part[np.argsort(-lengths[part], kind="stable")]
    whole = len(by_length) // micro * micro
    batches = by_length[:whole].reshape(-1, micro)
    work = micro * lengths[batches].max(axis=1) if len(batches) else np.zeros(0)
    work = work + weight * image_lengths[batches].sum(axis=1)
    return np.concatenate([batches[np.argsort(-work, kind="stable")].ravel(), by_length[whole:]])
