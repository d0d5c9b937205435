"""The order of a pass over a pool: which rows run together, and in which shards they are kept.

Rows with the same picture and the same tokens in front of it share a prefix. They stay together, so
that a picture is decoded and encoded once, and where it pays its prefix runs once as well. Nothing
here depends on the machine: the same pool gives the same plan, whoever runs which part of it.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

from xmas.models.chat.tokens import TokenTable

_PADS = 1 / 16  # of a batch's tokens at most, where a smaller batch can avoid them


@dataclasses.dataclass(frozen=True)
class Spans:
    """Where image and text of every row stand: `before` tokens, `image` tokens, `text` tokens.

    Rows with the same `prefix` have the same picture and the same tokens in front of it; -1
    without an image.
    """

    before: Int[np.ndarray, " rows"]
    image: Int[np.ndarray, " rows"]
    text: Int[np.ndarray, " rows"]
    prefix: Int[np.ndarray, " rows"]

    @property
    def opening(self) -> Int[np.ndarray, " rows"]:
        """Tokens up to the end of the image."""
        return self.before + self.image

    @classmethod
    def of(cls, table: TokenTable, picture: Int[np.ndarray, " rows"]) -> "Spans":
        """The spans of a pool whose rows show these pictures, -1 without one."""
        has_image = table.image_at >= 0
        before = np.maximum(table.image_at, 0).astype(np.int32)
        image = (table.lengths - table.text_lengths).astype(np.int32)
        known: dict[bytes, int] = {}
        opening = np.full(len(table), -1, dtype=np.int64)
        for row in np.flatnonzero(has_image).tolist():
            ids = table.ids(row)[: before[row]]
            opening[row] = known.setdefault(ids.tobytes(), len(known))
        pairs = np.where(has_image, picture.astype(np.int64) * max(1, len(known)) + opening, -1)
        text = (table.text_lengths - before).astype(np.int32)
        return cls(before, image, text, pairs)


@dataclasses.dataclass(frozen=True)
class Unit:
    """Pictures that are encoded together, with all their rows.

    `firsts` are rows that show these pictures, `rows` all rows in the order of the plan, and
    `which` says which of the pictures each shows. `batches` cuts `rows` by the length of their
    text; `shared` says whether the prefixes run once a picture. `width`, where set, is the padded
    length of every row, image counted.
    """

    rows: Int[np.ndarray, " rows"]
    which: Int[np.ndarray, " rows"]
    firsts: Int[np.ndarray, " pictures"]
    batches: tuple[Int[np.ndarray, " _"], ...]
    shared: bool
    width: int | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """`order`: the measured rows as they run; shard n holds `order[bounds[n]:bounds[n + 1]]`."""

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
        """The units of a shard: as many pictures as the budget of tokens takes, one at least."""
        rows = self.rows(shard)
        shared = self.shared[self.bounds[shard] : self.bounds[shard + 1]]
        before = self.spans.before[rows]
        opening = self.spans.opening[rows]
        text = self.spans.text[rows]
        starts = changes(self.spans.prefix[rows])
        first, pictures, longest = 0, 0, 0
        for start, stop in itertools.pairwise([*starts, len(rows)]):
            pictures, longest = pictures + 1, max(longest, int(text[start:stop].max()))
            lines, length = (
                (pictures, opening[start])
                if shared[start]
                else (stop - first, opening[start] + longest)
            )
            alike = (
                shared[first] == shared[start]
                and before[first] == before[start]
                and opening[first] == opening[start]
            )
            if start > first and not (alike and lines * length <= self.batch_tokens):
                yield self._unit(rows[first:start], bool(shared[first]))
                first, pictures, longest = start, 1, int(text[start:stop].max())
        yield self._unit(rows[first:], bool(shared[first]))

    def _unit(self, rows: Int[np.ndarray, " rows"], shared: bool) -> Unit:
        _, firsts, which = np.unique(
            self.spans.prefix[rows], return_index=True, return_inverse=True
        )
        opening = 0 if shared else int(self.spans.opening[rows[0]])
        batches = length_batches(self.spans.text[rows], opening, self.batch_tokens)
        return Unit(rows, which, rows[firsts], tuple(batches), shared)


def length_batches(
    lengths: Int[np.ndarray, " rows"], opening: int, tokens: int
) -> list[Int[np.ndarray, " _"]]:
    """Positions in order of length, in batches of at most `tokens` padded tokens, one row at least.

    Every row has `opening` tokens more. A batch also ends where its pads would pass a sixteenth of
    the budget.
    """
    ordered = np.argsort(lengths, kind="stable")
    batches, first, held = [], 0, 0
    for stop, position in enumerate(ordered):
        longest, count = int(lengths[position]), stop + 1 - first
        pads = count * longest - held - longest
        if count > 1 and (count * (opening + longest) > tokens or pads > tokens * _PADS):
            batches.append(ordered[first:stop])
            first, held = stop, 0
        held += longest
    return [*batches, ordered[first:]] if len(ordered) else []


def plan(
    spans: Spans,
    measured: Bool[np.ndarray, " rows"],
    *,
    batch_tokens: int,
    shard_rows: int,
    shared_from: float,
) -> Plan:
    """Rows in order of prefix and text length, cut into shards of about `shard_rows` rows.

    Rows of a picture are never parted. Their prefix runs once where that saves `shared_from` of
    their tokens: 0 is always, 1 is never.
    """
    rows = np.flatnonzero(measured)
    _, first, group, size = np.unique(
        spans.prefix[rows], return_index=True, return_inverse=True, return_counts=True
    )
    opening = spans.opening[rows]
    text = spans.text[rows]
    longest = np.zeros(len(size), dtype=text.dtype)
    np.maximum.at(longest, group, text)
    tokens = np.bincount(group, weights=opening + text, minlength=len(size))
    saved = (size - 1) * opening[first]
    shared = saved >= shared_from * tokens
    before = spans.before[rows]  # pictures of one unit have their tokens at the same places
    order = np.lexsort((rows, first[group], longest[group], before, opening, shared[group]))
    of_group = group[order]
    starts = changes(of_group)
    begins = starts[changes(starts // shard_rows)]
    return Plan(spans, rows[order], np.r_[begins, len(order)], shared[of_group], batch_tokens)


@dataclasses.dataclass(frozen=True)
class Consecutive(Plan):
    """Rows in the order of the pool, a fixed number at a time, as the release runs them.

    The release pads the *ids* of these rows, text-only ones among them, to the longest, a picture
    counting as one id; only then it puts the picture's tokens in, and cuts at `max_length`. The
    values depend on these pads: text-only rows of 700 tokens next to an image row of 132 make 700 +
    576 - 1 = 1,275 positions.
    Source: XMAS release, `trajectory.sh` and its collator.
    """

    together: int = 8
    max_length: int | None = None  # positions; null: not cut

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
    """The pool's own order, cut into shards of about `shard_rows` rows."""
    rows = np.flatnonzero(measured)
    starts = changes(rows // together)
    begins = starts[changes(starts // shard_rows)]
    shared = np.zeros(len(rows), dtype=bool)
    return Consecutive(spans, rows, np.r_[begins, len(rows)], shared, 0, together, max_length)


def changes(values: Int[np.ndarray, " n"]) -> Int[np.ndarray, " starts"]:
    """Where runs of equal values start."""
    return np.flatnonzero(np.diff(values, prepend=values[:1] - 1))
