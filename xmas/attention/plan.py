"""The order of a pass over a pool: which rows run in a batch, and which shards they belong to.

Rows with the same prefix (`xmas.attention.spans`) stay together, so that an image is decoded and
encoded once, and where it pays its prefix runs once as well (prefix sharing). Nothing here depends
on the machine: the same pool gives the same plan on every process.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

from xmas.attention.spans import Spans

_PADS = 1 / 16  # maximum fraction of pads in a batch that could be smaller


@dataclasses.dataclass(frozen=True)
class Unit:
    """Images that are encoded in a batch, with all their rows.

    `rows` are in the order of the plan, and `which` is the number of each row's image among those
    of the unit, of which `firsts` has a row each. `batches` are positions in `rows`, by the length
    of their text. `shared`: the prefix of an image runs once for all its rows. `width`, if set, is
    the padded length of every row, including the image.
    """

    rows: Int[np.ndarray, " rows"]
    which: Int[np.ndarray, " rows"]
    firsts: Int[np.ndarray, " pictures"]
    batches: tuple[Int[np.ndarray, " _"], ...]
    shared: bool
    width: int | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """`order`: the measured rows as they run; shard n is `order[bounds[n]:bounds[n + 1]]`.

    `shared`: rows whose prefix runs once for all rows of their image. `batch_tokens`: the maximum
    number of padded tokens in a batch.
    """

    spans: Spans
    order: Int[np.ndarray, " measured"]
    bounds: Int[np.ndarray, " shards_1"]
    shared: Bool[np.ndarray, " measured"]
    batch_tokens: int

    @property
    def shards(self) -> int:
        return len(self.bounds) - 1

    def rows(self, shard: int) -> Int[np.ndarray, " rows"]:
        return self.order[self.bounds[shard] : self.bounds[shard + 1]]

    def units(self, shard: int) -> Iterator[Unit]:
        """The units of a shard: as many images as fit into `batch_tokens`, at least one each."""
        rows = self.rows(shard)
        shared = self.shared[self.bounds[shard] : self.bounds[shard + 1]]
        before = self.spans.before[rows]
        up_to_image_end = self.spans.up_to_image_end[rows]
        text = self.spans.text[rows]
        starts = changes(self.spans.prefix[rows])
        first, pictures, longest = 0, 0, 0
        for start, stop in itertools.pairwise([*starts, len(rows)]):
            pictures, longest = pictures + 1, max(longest, int(text[start:stop].max()))
            lines, length = (
                (pictures, up_to_image_end[start])
                if shared[start]
                else (stop - first, up_to_image_end[start] + longest)
            )
            alike = (
                shared[first] == shared[start]
                and before[first] == before[start]
                and up_to_image_end[first] == up_to_image_end[start]
            )
            if start > first and not (alike and lines * length <= self.batch_tokens):
                yield self._unit(rows[first:start], bool(shared[first]))
                first, pictures, longest = start, 1, int(text[start:stop].max())
        yield self._unit(rows[first:], bool(shared[first]))

    def _unit(self, rows: Int[np.ndarray, " rows"], shared: bool) -> Unit:
        _, firsts, which = np.unique(
            self.spans.prefix[rows], return_index=True, return_inverse=True
        )
        prefix_length = 0 if shared else int(self.spans.up_to_image_end[rows[0]])
        batches = length_batches(self.spans.text[rows], prefix_length, self.batch_tokens)
        return Unit(rows, which, rows[firsts], tuple(batches), shared)


def length_batches(
    lengths: Int[np.ndarray, " rows"], prefix_length: int, tokens: int
) -> list[Int[np.ndarray, " _"]]:
    """Positions in order of length, in batches of at most `tokens` padded tokens, at least one row.

    Args:
        lengths: of the rows, without `prefix_length`.
        prefix_length: tokens that every row has in addition.
        tokens: maximum of a batch, including pads; a batch also ends before more than 1/16 of this
            number would be pads.
    """
    by_length = np.argsort(lengths, kind="stable")
    batches, first, row_tokens = [], 0, 0
    for stop, position in enumerate(by_length):
        longest, count = int(lengths[position]), stop + 1 - first
        pads = count * longest - row_tokens - longest
        if count > 1 and (count * (prefix_length + longest) > tokens or pads > tokens * _PADS):
            batches.append(by_length[first:stop])
            first, row_tokens = stop, 0
        row_tokens += longest
    return [*batches, by_length[first:]] if len(by_length) else []


def packed_batches(lengths: Int[np.ndarray, " rows"], tokens: int) -> list[Int[np.ndarray, " _"]]:
    """Positions in order of length, in batches of at most `tokens` tokens, at least one row: of
    rows that are packed, so that nothing is padded.
    """
    by_length = np.argsort(lengths, kind="stable")
    batches, first, total = [], 0, 0
    for stop, position in enumerate(by_length):
        length = int(lengths[position])
        if stop > first and total + length > tokens:
            batches.append(by_length[first:stop])
            first, total = stop, 0
        total += length
    return [*batches, by_length[first:]] if len(by_length) else []


def plan(
    spans: Spans,
    measured: Bool[np.ndarray, " rows"],
    *,
    batch_tokens: int,
    shard_rows: int,
    shared_from: float,
) -> Plan:
    """A plan in order of prefix and text length, with shards of about `shard_rows` rows.

    The rows of an image are in one shard. Their prefix runs once where that saves at least the
    fraction `shared_from` of their tokens: 0 always, 1 never.
    """
    rows = np.flatnonzero(measured)
    _, first, group, size = np.unique(
        spans.prefix[rows], return_index=True, return_inverse=True, return_counts=True
    )
    up_to_image_end = spans.up_to_image_end[rows]
    text = spans.text[rows]
    longest = np.zeros(len(size), dtype=text.dtype)
    np.maximum.at(longest, group, text)
    tokens = np.bincount(group, weights=up_to_image_end + text, minlength=len(size))
    saved_tokens = (size - 1) * up_to_image_end[first]
    shared = saved_tokens >= shared_from * tokens
    before = spans.before[rows]  # images of a unit have their tokens at the same positions
    order = np.lexsort((rows, first[group], longest[group], before, up_to_image_end, shared[group]))
    ordered_groups = group[order]
    starts = changes(ordered_groups)
    begins = starts[changes(starts // shard_rows)]
    return Plan(spans, rows[order], np.r_[begins, len(order)], shared[ordered_groups], batch_tokens)


@dataclasses.dataclass(frozen=True)
class Consecutive(Plan):
    """Rows in the order of the pool, a fixed number in a batch, as the release runs them.

    The release pads the *ids* of these rows, including text-only ones, to the longest, with one id
    for an image; then it inserts the tokens of the image, and truncates at `max_length`. The values
    depend on these pads: a text-only row of 700 tokens next to a row with an image and 132 ids
    makes 700 + 576 - 1 = 1,275 positions.
    Source: XMAS release, `trajectory.sh` and its collator.
    """

    together: int = 8
    max_length: int | None = None  # positions; None: not truncated

    def units(self, shard: int) -> Iterator[Unit]:
        rows = self.rows(shard)
        spans = self.spans
        id_counts = spans.before + spans.text + (spans.image > 0)
        for start, stop in itertools.pairwise([*changes(rows // self.together), len(rows)]):
            part = rows[start:stop]
            first = part[0] // self.together * self.together
            longest = int(id_counts[first : first + self.together].max())
            layouts = np.stack([spans.before[part], spans.image[part]], axis=1)
            for before, image in np.unique(layouts, axis=0):
                alike = part[(layouts == (before, image)).all(axis=1)]
                every = np.arange(len(alike))
                width = longest + int(image) - 1
                if self.max_length is not None:
                    width = min(width, self.max_length)
                yield Unit(alike, every, alike, (every,), False, width)


def consecutive(
    spans: Spans,
    measured: Bool[np.ndarray, " rows"],
    *,
    shard_rows: int,
    together: int = 8,
    max_length: int | None = None,
) -> Consecutive:
    """A plan in the order of the pool, `together` rows a batch, shards of about `shard_rows`."""
    rows = np.flatnonzero(measured)
    starts = changes(rows // together)
    begins = starts[changes(starts // shard_rows)]
    shared = np.zeros(len(rows), dtype=bool)
    return Consecutive(spans, rows, np.r_[begins, len(rows)], shared, 0, together, max_length)


def changes(values: Int[np.ndarray, " n"]) -> Int[np.ndarray, " starts"]:
    """The positions at which runs of equal values start."""
    return np.flatnonzero(np.diff(values, prepend=values[:1] - 1))
