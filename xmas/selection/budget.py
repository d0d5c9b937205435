"""Budgets: how many rows a subset has, and which rows of a ranking.

The rules of a subset, that is the text-only policy, floors and caps, turn one order of the pool
into another, of which every subset is a prefix. So subsets of one ranking are nested under all
rules, and a budget in tokens is the longest prefix that does not exceed it.
"""

import dataclasses
from collections.abc import Mapping
from decimal import Decimal

import numpy as np
from jaxtyping import Bool, Int

from xmas.store.nearest import suggestion

TEXT_ONLY = ("proportional", "exclude", "keep_all", "ranked")


def check_settings(
    *, fraction: object, rows: object, text_only: object, floors: object = None, caps: object = None
) -> None:
    """Refuse what is wrong in any pool, so that nothing is computed for it.

    Raises:
        ValueError: a number is no number or out of its range, or there is no such policy; names the
            setting.
    """
    _check_policy(text_only)
    for setting, limits in (("floors", floors), ("caps", caps)):
        counts = limits.values() if isinstance(limits, Mapping) else [limits or 0]
        if not isinstance(limits, Mapping | None) or not all(type(n) is int for n in counts):
            raise ValueError(
                f"subset.{setting}={limits!r}: expected a number of rows for every source named, "
                f"as in 'subset.{setting}={{ocr_vqa: 500}}'; put odd names in double quotes"
            )
    if rows is not None:
        if isinstance(rows, bool) or not isinstance(rows, int):
            raise ValueError(f"subset.rows={rows!r} is not a whole number; give a count, e.g. 1000")
        if rows < 1:
            raise ValueError(f"subset.rows={rows} is not within 1 and the rows of the pool")
        return
    if isinstance(fraction, bool) or not isinstance(fraction, int | float):
        raise ValueError(
            f"subset.fraction={fraction!r} is not a number; give a share of the pool, e.g. 0.2"
        )
    if not 0 < fraction <= 1:
        raise ValueError(
            f"subset.fraction={fraction} is not within (0, 1]; for a count use subset.rows"
        )


def _check_policy(text_only: object) -> None:
    if text_only not in TEXT_ONLY:
        raise ValueError(
            f"subset.text_only={text_only!r} is no policy{suggestion(str(text_only), TEXT_ONLY)}"
        )


def budget_of(count: int, *, fraction: float | None, rows: int | None) -> int:
    """The number of rows of a budget, in a pool of `count` rows.

    Args:
        fraction: of the pool, in (0, 1]; rounded down in decimal arithmetic, since
            `int(0.29 * 100)` is 28.
        rows: an exact number; wins over `fraction`.

    Raises:
        ValueError: the budget is none in this pool, or over it.
    """
    if rows is not None:
        if not 1 <= rows <= count:
            raise ValueError(f"subset.rows={rows} is not within 1 and the {count} rows of the pool")
        return rows
    assert fraction is not None  # `check_settings` refused it
    budget = int(Decimal(str(fraction)) * count)
    if budget < 1:
        raise ValueError(f"subset.fraction={fraction} of {count} rows is none; raise it")
    return budget


@dataclasses.dataclass(frozen=True)
class Queue:
    """Rows in the order in which they enter a subset as its budget grows.

    Attributes:
        rows: the rows that the rules allow; a subset of more cannot keep them.
        least: the smallest budget that keeps the rules.
    """

    rows: Int[np.ndarray, " usable"]
    least: int


def queue(
    order: Int[np.ndarray, " rows"],
    *,
    has_image: Bool[np.ndarray, " rows"],
    sources: np.ndarray | None = None,
    text_only: str = "proportional",
    floors: dict[str, int] | None = None,
    caps: dict[str, int] | None = None,
) -> Queue:
    """An order of the pool, rearranged so that every prefix keeps the rules.

    Args:
        order: all rows, best first.
        has_image: of every row.
        sources: the name of every row's source, for floors and caps.
        text_only: which text-only rows: `proportional`, their share of the pool in every prefix,
            rounded half up; `exclude`, none; `keep_all`, all, first; `ranked`, where `order` has
            them.
        floors: source to the number of rows that it gives at least, best first. Numbers, since
            with shares of the budget subsets would not be nested.
        caps: source to the number of rows that it gives at most, best first.

    Raises:
        ValueError: no such policy or source, or floors that pool, caps or policy cannot meet.
    """
    _check_policy(text_only)
    floors, caps = floors or {}, caps or {}
    names = [] if sources is None or not (floors or caps) else np.unique(sources).tolist()
    for option, limits in (("floors", floors), ("caps", caps)):
        if unknown := sorted(set(limits) - set(names)):
            raise ValueError(f"{option} name {unknown}; the sources are {names}")
    usable = order[has_image[order]] if text_only == "exclude" else order
    over_cap = np.zeros(len(order), dtype=bool)
    floored = np.zeros(len(order), dtype=bool)
    for name in sorted(set(floors) | set(caps)):
        assert sources is not None  # or its name were unknown
        best = usable[(sources == name)[usable]]
        cap, floor = caps.get(name, len(best)), floors.get(name, 0)
        if cap < 0:
            raise ValueError(f"caps allow {cap} rows of {name!r}; give a count from 0 up")
        if not 0 <= floor <= len(best):
            raise ValueError(f"floors want {floor} rows of {name!r}, the pool has {len(best)}")
        if floor > cap:
            raise ValueError(f"floors want {floor} rows of {name!r}, caps allow {cap}")
        over_cap[best[cap:]] = True
        floored[best[:floor]] = True
    usable = usable[~over_cap[usable]]
    usable = np.concatenate([usable[floored[usable]], usable[~floored[usable]]])
    rows = usable if text_only in ("ranked", "exclude") else _merged(usable, has_image, text_only)
    required = floored | (~has_image & ~over_cap) if text_only == "keep_all" else floored
    last = np.flatnonzero(required[rows])
    if len(last) < required.sum():
        raise ValueError(
            f"floors want {required.sum()} rows, text_only={text_only} leaves room for {len(last)} "
            "of them; lower subset.floors"
        )
    return Queue(rows, int(last[-1]) + 1 if len(last) else 1)


def _merged(
    usable: Int[np.ndarray, " usable"], has_image: Bool[np.ndarray, " rows"], policy: str
) -> Int[np.ndarray, " merged"]:
    """Image rows and text-only rows, each in their order, merged as long as the policy allows."""
    image_rows, text_rows = usable[has_image[usable]], usable[~has_image[usable]]
    if policy == "keep_all":
        return np.concatenate([text_rows, image_rows])
    count, of_pool = len(has_image), int((~has_image).sum())
    budgets = np.arange(1, len(usable) + 1)
    texts = (2 * budgets * of_pool + count) // (2 * count)
    possible = (texts <= len(text_rows)) & (budgets - texts <= len(image_rows))
    texts = texts[: np.argmin(possible) if not possible.all() else None]
    is_text = np.diff(texts, prepend=0).astype(bool)
    rows = np.empty(len(texts), dtype=usable.dtype)
    rows[is_text] = text_rows[: is_text.sum()]
    rows[~is_text] = image_rows[: (~is_text).sum()]
    return rows


def cut(
    order: Int[np.ndarray, " rows"],
    budget: int,
    *,
    has_image: Bool[np.ndarray, " rows"],
    sources: np.ndarray | None = None,
    text_only: str = "proportional",
    floors: dict[str, int] | None = None,
    caps: dict[str, int] | None = None,
    lengths: Int[np.ndarray, " rows"] | None = None,
) -> Int[np.ndarray, " chosen"]:
    """The rows of a subset, ascending: a prefix of the `queue` that the rules make of `order`.

    Args:
        budget: a number of rows or, with `lengths`, of tokens: then the longest prefix that does
            not exceed it, which falls short by less than the next row has.
        lengths: tokens of every row.

    The other arguments are those of `queue`.

    Raises:
        ValueError: this budget cannot keep the rules; the message has both numbers.
    """
    row_queue = queue(
        order, has_image=has_image, sources=sources, text_only=text_only, floors=floors, caps=caps
    )
    subject = f"a budget of {budget} rows"
    if lengths is not None:
        tokens = np.cumsum(lengths[row_queue.rows])
        if len(tokens) and budget > tokens[-1]:
            raise ValueError(
                f"subset.tokens={budget} is over the {tokens[-1]} tokens of the {len(tokens)} rows "
                f"that pool, text_only={text_only} and caps allow; lower it"
            )
        subject = f"subset.tokens={budget}"
        budget = int(np.searchsorted(tokens, budget, side="right"))
        subject += f", which {budget} rows fill,"
    if budget < row_queue.least:
        raise ValueError(
            f"{subject} is under the {row_queue.least} rows that text_only={text_only} and floors "
            "ask for; raise it, or change subset.text_only or subset.floors"
        )
    if budget > len(row_queue.rows):
        raise ValueError(
            f"{subject} is over the {len(row_queue.rows)} rows that text_only={text_only} and caps "
            f"leave of {int(has_image.sum())} with and {int((~has_image).sum())} without an image; "
            "lower it, or change subset.text_only or subset.caps"
        )
    return np.sort(row_queue.rows[:budget])
