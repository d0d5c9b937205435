"""Rows of a pool that are held out: never ranked and never trained on, but scored.

No picture and no near copy of one is on both sides, and no near copy of a text without a picture.
"""

import dataclasses
import functools
import json
import logging
import math
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Int

from xmas.data.chosen_rows import ChosenRows
from xmas.data.images.seen import note
from xmas.data.near_copies.image_hashes import ImageHashes
from xmas.data.near_copies.near_groups import near_groups
from xmas.data.near_copies.sides import HELD_OUT, LEFT_OUT, POOL, drawn, listed
from xmas.data.near_copies.text_sketches import Texts
from xmas.data.pool import OF_ANNOTATIONS, Pool
from xmas.data.rows import PoolError, Rows
from xmas.store import Made, Stage, Store, content, nearest_stages

log = logging.getLogger(__name__)

_FILES = {"pool.npy": POOL, "held_out.npy": HELD_OUT}


@dataclasses.dataclass(frozen=True)
class HoldOut:
    """Which rows of a pool are held out: a share, or those that a file lists.

    Args:
        share: of the rows, at most, in (0, 1); groups of near copies are drawn until no other one
            fits, every row as likely as any other.
        most: rows of the share, at most; None: no limit.
        rows: a JSON list of row numbers in the annotation file, held out in place of a share; near
            copies of them are left out of the pool as well.
        seed: of the draw.
        distance: near pictures differ in at most this many of 128 bits, at most 7.
        similarity: near texts of rows without a picture share at least this fraction of their
            words.

    Raises:
        ValueError: another `share`, or `most` below 1.
    """

    share: float = 0.1
    most: int | None = 2000
    rows: str | None = content(None)
    seed: int = 0
    distance: int = 7
    similarity: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"pool.hold_out.share={self.share}: expected a number between 0 and 1")
        if self.most is not None and self.most < 1:
            raise ValueError(f"pool.hold_out.most={self.most}: expected 1 row or more, or null")


@dataclasses.dataclass(frozen=True)
class HeldOutSplit(Stage):
    """`pool.npy` and `held_out.npy`, row numbers of both sides in `pool`, ascending; `groups.npy`,
    of the rows held out, the first row of each one's near copies; `split.json`: rows on each side
    by source, rows in neither, groups, and the rows of the largest.

    Every picture is hashed. `pool.hold_out` makes it: `Pool.open` then gives the other rows.
    """

    kind: ClassVar[str] = "held_out"

    pool: Pool
    how: HoldOut

    def inputs(self) -> list[Stage]:
        return [*nearest_stages(self.pool), ImageHashes(self.pool), Texts(self.pool)]

    @property
    def held_out(self) -> Pool:
        """The rows held out, as a pool."""
        return dataclasses.replace(
            self.pool, annotations=Made(self, "held_out.npy"), **OF_ANNOTATIONS
        )

    @property
    def rest(self) -> Pool:
        """The other rows, as a pool."""
        return dataclasses.replace(self.pool, annotations=Made(self, "pool.npy"), **OF_ANNOTATIONS)

    def check(self, store: Store) -> None:
        """Raises PoolError: the share is no row, or a listed row is not there."""
        if not self.pool.at_hand(store):
            return
        examples = self.pool.open(store)
        if self.how.rows is not None:
            self._listed(store, len(examples))
        elif not _budget(len(examples), self.how):
            raise PoolError(
                f"{examples.annotations}: pool.hold_out.share={self.how.share} of its "
                f"{len(examples)} rows is none; raise it, or take another suite="
            )

    def compute(self, store: Store, out: Path) -> None:
        """Raises PoolError: the file of rows is none, an image cannot be read, or nothing can be
        held out.
        """
        examples = self.pool.open(store)
        hashes = np.load(store.get(ImageHashes(self.pool)) / "seen.npy")
        sketches = np.load(store.get(Texts(self.pool)) / "sketches.npy")
        groups = near_groups(
            examples.shown,
            hashes,
            sketches,
            distance=self.how.distance,
            similarity=self.how.similarity,
        )
        if self.how.rows is None:
            rng = np.random.default_rng(self.how.seed)
            sides = drawn(groups, _budget(len(examples), self.how), rng)
        else:
            sides = listed(groups, self._listed(store, len(examples)))
        if not (sides == HELD_OUT).any() or not (sides == POOL).any():
            raise PoolError(self._refusal(examples, groups, sides))
        for name, side in _FILES.items():
            np.save(out / name, np.flatnonzero(sides == side))
        np.save(out / "groups.npy", groups[sides == HELD_OUT])
        record = {
            "rows": {
                name.removesuffix(".npy"): _by_source(examples, sides == side)
                for name, side in _FILES.items()
            },
            "left_out": int((sides == LEFT_OUT).sum()),
            "groups": len(np.unique(groups)),
            "largest_group": int(np.bincount(groups).max()),
        }
        (out / "split.json").write_text(json.dumps(record, indent=2))
        note(self.pool, examples, out)
        log.info(
            "%s: %d of %d rows are held out, no near copy of them is among the %d others%s",
            *(examples.annotations, (sides == HELD_OUT).sum(), len(sides), (sides == POOL).sum()),
            f"; {record['left_out']} near copies are left out" if record["left_out"] else "",
        )

    def open(self, store: Store, name: str) -> Rows:
        """The rows of one side, by the file that lists them."""
        path = store.get(self) / name
        return _chosen(self.pool.open(store), path, path.stat().st_mtime_ns)

    def numbers(self, store: Store, name: str) -> Int[np.ndarray, " side"]:
        """The numbers of the rows of one side in the annotation file."""
        return self.pool.file_rows(store, np.load(store.get(self) / name))

    def groups(self, store: Store) -> Int[np.ndarray, " held_out"]:
        """A number for every row held out, equal for near copies."""
        return np.load(store.get(self) / "groups.npy")

    def sizes(self, rows: int) -> dict[str, int]:
        """About how many of a pool's `rows` are on each side, before anything is hashed."""
        count = _budget(rows, self.how)
        if self.how.rows is not None:
            count = len(_read(self.how.rows))
        return {"held_out.npy": count, "pool.npy": rows - count}

    def _listed(self, store: Store, count: int) -> Int[np.ndarray, " listed"]:
        """The rows that the file lists, as numbers in `pool`."""
        assert self.how.rows is not None
        numbers = np.unique(_read(self.how.rows))
        in_file = self.pool.file_rows(store, np.arange(count))
        absent = np.setdiff1d(numbers, in_file)
        if len(absent):
            raise PoolError(
                f"pool.hold_out.rows={self.how.rows}: {len(absent)} of {len(numbers)} rows are "
                f"not in the pool of {count}, the first is {absent[0]}; rows are numbered from 0, "
                "as they are in the annotation file, without those that pool.invalid=skip leaves "
                "out"
            )
        return np.searchsorted(in_file, numbers)

    def _refusal(self, examples: Rows, groups: np.ndarray, sides: np.ndarray) -> str:
        if self.how.rows is not None:
            return (
                f"pool.hold_out.rows={self.how.rows}: {(sides == HELD_OUT).sum()} of "
                f"{len(sides)} rows of {examples.annotations} are listed, and with near copies "
                f"{(sides == POOL).sum()} are left to choose from; list some of the rows, or set "
                "pool.hold_out.distance lower, under which fewer pictures are near copies"
            )
        sizes = np.bincount(groups)
        return (
            f"{examples.annotations}: nothing can be held out: its {len(sides)} rows are "
            f"{(sizes > 0).sum()} groups of near copies, the smallest of {sizes[sizes > 0].min()}, "
            f"and pool.hold_out.share={self.how.share} is {_budget(len(sides), self.how)} rows; "
            "raise it, set pool.hold_out.distance lower, or take another suite="
        )


def _budget(rows: int, how: HoldOut) -> int:
    """The most rows that are held out, the share in decimal arithmetic: 0.29 of 100 is 29."""
    count = math.floor(Fraction(str(how.share)) * rows)
    return count if how.most is None else min(count, how.most)


def _read(path: str) -> Int[np.ndarray, " listed"]:
    """The row numbers in a file. Raises PoolError: it is no JSON list of them."""
    try:
        numbers = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise PoolError(f"pool.hold_out.rows={path}: {error.strerror or error}") from error
    except ValueError as error:
        raise PoolError(f"pool.hold_out.rows={path}: no JSON: {error}") from error
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise PoolError(
            f"pool.hold_out.rows={path}: expected a JSON list of row numbers, such as [3, 17]"
        )
    return np.array(numbers, dtype=np.int64)


def _by_source(examples: Rows, side: np.ndarray) -> dict[str, int]:
    names, counts = np.unique(examples.sources[side], return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


@functools.lru_cache(maxsize=4)
def _chosen(rows: Rows, numbers: Path, modified: int) -> ChosenRows:
    """The rows whose numbers are in a file; `modified` tells another content."""
    return ChosenRows(rows, np.load(numbers))
