"""Which rows of a pool are planted, with what, and where it comes from."""

import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Int

from xmas.data.planted.edits import answers_of
from xmas.data.rows import PoolError, Rows

KINDS = (  # of a row, by number; the first two are the pool's own rows as they were
    "clean", "original", "exact", "near", "inflated", "swapped", "wrong_picture", "empty",
    "one_token", "padded",
)  # fmt: skip
CLEAN, ORIGINAL, EXACT, NEAR, INFLATED, SWAPPED, WRONG_PICTURE, EMPTY, ONE_TOKEN, PADDED = range(10)
COPIES = EXACT, NEAR
LENGTHS = ("random", "noise")


@dataclasses.dataclass(frozen=True)
class Planting:
    """Shares of the rows of a pool that become planted ones, in place of rows that it had.

    Args:
        exact: copies of another row.
        near: copies with the picture cropped and encoded anew and the question in a template.
        inflated: rows of a source that becomes `factor` times as large, by near copies.
        factor: of `inflated`.
        swapped: with the answers of another row of the same source.
        wrong_picture: with the picture of another row of the same source.
        empty: with empty answers.
        one_token: whose answers are a full stop.
        padded: with `sentences` after the question that ask nothing.
        sentences: of padded rows.
        length: which rows are padded: `random`, so that length says nothing of the truth; `noise`,
            every swapped row and every row with a wrong picture and no other, so that it does.

    Raises:
        ValueError: a share below 0, more than the pool has in all, or another `length`.
    """

    exact: float = 0.05
    near: float = 0.05
    inflated: float = 0.05
    factor: int = 10
    swapped: float = 0.05
    wrong_picture: float = 0.05
    empty: float = 0.025
    one_token: float = 0.025
    padded: float = 0.05
    sentences: int = 3
    length: str = "random"

    def __post_init__(self) -> None:
        for name, share in self.shares().items():
            if not 0 <= share <= 1:
                raise ValueError(f"planting.{name}={share}: expected a share of the rows, 0 to 1")
        total = sum(self.shares().values()) + self.exact + self.near  # and what they copy
        if total > 1:
            raise ValueError(
                f"the shares of planting, with the rows that are copied, are {total:g} of the "
                "pool; lower some of them"
            )
        if self.factor < 2 or self.sentences < 1:
            raise ValueError(
                f"planting.factor={self.factor}, planting.sentences={self.sentences}: expected a "
                "factor from 2 and sentences from 1 up"
            )
        if self.length not in LENGTHS:
            raise ValueError(
                f"planting.length={self.length!r} is no choice; there are {', '.join(LENGTHS)}"
            )

    def shares(self) -> dict[str, float]:
        """The share of every planted kind."""
        return {name: float(getattr(self, name)) for name in KINDS[EXACT:]}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What every row of the planted pool is; rows are numbered as in the pool they come from.

    Attributes:
        kinds: a number of `KINDS`.
        rows: whose record, questions and source a row has.
        answers: whose answers it has.
        pictures: whose picture it has.
        groups: of copies, the row that is copied, which is of the group itself; -1 without copies.
        variants: of near copies, which crop and which template; -1 for others.
        padded: whether sentences are added to the question.
        comparable: rows of which any could have been planted, the planted ones included.
    """

    kinds: Int[np.ndarray, " rows"]
    rows: Int[np.ndarray, " rows"]
    answers: Int[np.ndarray, " rows"]
    pictures: Int[np.ndarray, " rows"]
    groups: Int[np.ndarray, " rows"]
    variants: Int[np.ndarray, " rows"]
    padded: Bool[np.ndarray, " rows"]
    comparable: Bool[np.ndarray, " rows"]


def planned(rows: Rows, planting: Planting, rng: np.random.Generator) -> Plan:
    """Draw the planted rows among those with one image, or among all where there are none.

    Every kind has rows to itself. A row that cannot be changed, since all rows of its source have
    the same answer or picture, stays as it was, so that there may be fewer than the share says.

    Raises:
        PoolError: the pool is too small for a kind, or too few of its rows have an image.
    """
    count = len(rows)
    comparable = rows.shown.counts == 1
    has_pictures = bool(comparable.any())
    if not has_pictures:
        comparable = np.ones(count, dtype=bool)
    own, none = np.arange(count), np.full(count, -1)
    plan = Plan(
        kinds=np.zeros(count, dtype=np.int64),
        rows=own.copy(),
        answers=own.copy(),
        pictures=own.copy(),
        groups=none.copy(),
        variants=none.copy(),
        padded=np.zeros(count, dtype=bool),
        comparable=comparable,
    )
    draw = _Draw(rows, planting, list(rng.permutation(np.flatnonzero(comparable)).tolist()))
    draw.inflate(plan)
    for kind in COPIES:
        copied = draw.take(kind)
        copies = draw.take(kind)
        plan.kinds[copied], plan.kinds[copies] = ORIGINAL, kind
        plan.groups[copied] = plan.groups[copies] = copied
        for part in (plan.rows, plan.answers, plan.pictures):
            part[copies] = copied
        if kind == NEAR:
            plan.variants[copies] = np.arange(len(copies))
    swapped = draw.take(SWAPPED)
    answers = ["\0".join(answers_of(rows.turns(int(row)))) for row in swapped]
    _exchange(plan, SWAPPED, plan.answers, swapped, _ranks(answers), draw.alike(swapped))
    if has_pictures:
        moved = draw.take(WRONG_PICTURE)
        pictures = rows.shown.first[moved]
        _exchange(plan, WRONG_PICTURE, plan.pictures, moved, pictures, rows.index.source[moved])
    for kind in (EMPTY, ONE_TOKEN):
        plan.kinds[draw.take(kind)] = kind
    if planting.length == "noise":
        plan.padded[np.isin(plan.kinds, (SWAPPED, WRONG_PICTURE))] = True
    else:
        long = draw.take(PADDED)
        plan.kinds[long] = PADDED
        plan.padded[long] = True
    return plan


@dataclasses.dataclass(frozen=True)
class _Draw:
    """Rows that are still clean, in a random order."""

    rows: Rows
    planting: Planting
    free: list[int]

    def take(self, kind: int) -> Int[np.ndarray, " taken"]:
        """The next rows, as many as the share of a kind."""
        share = self.planting.shares()[KINDS[kind]]
        count = math.floor(Fraction(str(share)) * len(self.rows))
        if share and not count:
            raise PoolError(
                f"{self.rows.annotations}: planting.{KINDS[kind]}={share} of {len(self.rows)} rows "
                "is none; raise it, set it to 0, or take more rows"
            )
        return self._next(count, kind)

    def _next(self, count: int, kind: int) -> Int[np.ndarray, " taken"]:
        if count > len(self.free):
            raise PoolError(
                f"{self.rows.annotations}: {len(self.free)} rows are left for the {count} of "
                f"planting.{KINDS[kind]}, since only rows with one image are planted; lower some "
                "shares of planting"
            )
        taken = self.free[:count]
        del self.free[:count]
        return np.array(taken, dtype=np.int64)

    def inflate(self, plan: Plan) -> None:
        """Make a source of few rows `factor` times as large, the smallest one that has as many: its
        other rows become copies first, then rows of other sources.
        """
        planting, of_source = self.planting, self.rows.index.source
        count = math.floor(Fraction(str(planting.inflated)) * len(self.rows)) // planting.factor
        if not planting.inflated:
            return
        sizes = np.bincount(of_source[self.free])
        large = np.flatnonzero(sizes >= max(count, 1))
        if not count or not len(large):
            raise PoolError(
                f"{self.rows.annotations}: planting.inflated={planting.inflated} of "
                f"{len(self.rows)} rows, {planting.factor} of each, is no row of a source; raise "
                "it, or set it to 0"
            )
        source = large[np.argmin(sizes[large])]
        members = [row for row in self.free if of_source[row] == source]
        originals, rest = np.array(members[:count]), members[count:]
        copies = rest[: count * (planting.factor - 1)]
        gone = {*members[:count], *copies}
        self.free[:] = [row for row in self.free if row not in gone]
        more = self._next(count * (planting.factor - 1) - len(copies), INFLATED)
        copied = np.concatenate([np.array(copies, dtype=np.int64), more])
        of_original = np.resize(originals, len(copied))
        plan.kinds[originals] = plan.kinds[copied] = INFLATED
        plan.groups[originals], plan.groups[copied] = originals, of_original
        for part in (plan.rows, plan.answers, plan.pictures):
            part[copied] = of_original
        plan.variants[copied] = np.arange(len(copied)) // count

    def alike(self, taken: Int[np.ndarray, " taken"]) -> Int[np.ndarray, " taken"]:
        """A number for each row, equal for rows of one source with as many answers."""
        sources = self.rows.index.source[taken]
        answers = [len(answers_of(self.rows.turns(int(row)))) for row in taken]
        return sources * (max(answers, default=0) + 1) + np.array(answers, dtype=np.int64)


def _ranks(texts: list[str]) -> Int[np.ndarray, " texts"]:
    """Equal numbers for equal texts."""
    return np.unique(np.array(texts, dtype=object).astype(str), return_inverse=True)[1].reshape(-1)


def _exchange(
    plan: Plan,
    kind: int,
    part: Int[np.ndarray, " rows"],
    taken: Int[np.ndarray, " taken"],
    content: Int[np.ndarray, " taken"],
    groups: Int[np.ndarray, " taken"],
) -> None:
    """Give every row what another row of its group has, where that has another content."""
    for members in _members(groups):
        by_content = members[np.argsort(content[members], kind="stable")]
        # Half a turn of the sorted list: equal ones follow one another, at most half are met again.
        partners = np.roll(by_content, len(by_content) // 2)
        differ = content[by_content] != content[partners]
        plan.kinds[taken[by_content[differ]]] = kind
        part[taken[by_content[differ]]] = taken[partners[differ]]


def _members(groups: Int[np.ndarray, " taken"]) -> Iterator[Int[np.ndarray, " _"]]:
    for group in np.unique(groups):
        yield np.flatnonzero(groups == group)
