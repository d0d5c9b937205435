"""Budgets: how many rows a subset has, and which of a ranking these are.

All rules that a subset keeps to, the text-only policy, floors and caps, turn one order of the pool
into another, of which every subset is the beginning. So subsets of one ranking are nested whatever
the rules, and a budget in tokens is the longest beginning that does not exceed it.
"""

import dataclasses
from decimal import Decimal

import numpy as np
from jaxtyping import Bool, Int

TEXT_ONLY = ("proportional", "exclude", "keep_all", "ranked")


def budget_of(count: int, *, fraction: float | None, rows: int | None) -> int:
    """The number of rows that `rows` or `fraction` of `count` means, floored in decimal arithmetic.

    Raises ValueError: none is given, or the budget is zero, negative or over the pool.
    """
    if rows is not None:
        if isinstance(rows, bool) or not isinstance(rows, int):
            raise ValueError(f"subset.rows={rows!r} is not a whole number; give a count, e.g. 1000")
        if not 1 <= rows <= count:
            raise ValueError(f"subset.rows={rows} is not within 1 and the {count} rows of the pool")
        return rows
    if isinstance(fraction, bool) or not isinstance(fraction, int | float):
        raise ValueError(
            f"subset.fraction={fraction!r} is not a number; give a share of the pool, e.g. 0.2"
        )
    if not 0 < fraction <= 1:
        raise ValueError(
            f"subset.fraction={fraction} is not within (0, 1]; for a count use subset.rows"
        )
    budget = int(Decimal(str(fraction)) * count)
    if budget < 1:
        raise ValueError(f"subset.fraction={fraction} of {count} rows is none; raise it")
    return budget


@dataclasses.dataclass(frozen=True)
class Queue:
    """Rows in the order in which they enter a subset; a subset of fewer than `least` breaks a
    rule, one of more than `len(rows)` too.
    """

    rows: Int[np.ndarray, " usable"]
    least: int


def queue(
    order: Int[np.ndarray, " rows"],
    *,
    has_image: Bool[np.ndarray, " rows"],
    sources: np.ndarray,
    text_only: str = "proportional",
    floors: dict[str, int] | None = None,
    caps: dict[str, int] | None = None,
) -> Queue:
    """An order of the pool, rearranged so that every beginning of it keeps to the rules.

    Text-only rows: `proportional`, the pool's share of every beginning, rounded half up; `exclude`,
    none; `keep_all`, all, before all others; `ranked`, wherever the order has them. `floors` and
    `caps` are rows that a source gives at least and at most, best first: as shares of the budget,
    subsets would not be nested. Raises ValueError: no such policy or source, or floors that pool,
    caps or policy cannot meet.
    """
    if text_only not in TEXT_ONLY:
        raise ValueError(f"text_only {text_only!r}: expected one of {', '.join(TEXT_ONLY)}")
    floors, caps = floors or {}, caps or {}
    names = np.unique(sources).tolist()
    for what, limits in (("floors", floors), ("caps", caps)):
        if unknown := sorted(set(limits) - set(names)):
            raise ValueError(f"{what} name {unknown}; the sources are {names}")
    usable = order[has_image[order]] if text_only == "exclude" else order
    refused = np.zeros(len(order), dtype=bool)
    floored = np.zeros(len(order), dtype=bool)
    for name in sorted(set(floors) | set(caps)):
        best = usable[sources[usable] == name]
        cap, floor = caps.get(name, len(best)), floors.get(name, 0)
        if cap < 0:
            raise ValueError(f"caps allow {cap} rows of {name!r}; give a count from 0 up")
        if not 0 <= floor <= len(best):
            raise ValueError(f"floors want {floor} rows of {name!r}, the pool has {len(best)}")
        if floor > cap:
            raise ValueError(f"floors want {floor} rows of {name!r}, caps allow {cap}")
        refused[best[cap:]] = True
        floored[best[:floor]] = True
    usable = usable[~refused[usable]]
    usable = np.concatenate([usable[floored[usable]], usable[~floored[usable]]])
    rows = usable if text_only in ("ranked", "exclude") else _merged(usable, has_image, text_only)
    needed = floored | (~has_image & ~refused) if text_only == "keep_all" else floored
    last = np.flatnonzero(needed[rows])
    if len(last) < needed.sum():
        raise ValueError(
            f"floors want {needed.sum()} rows, text_only={text_only} leaves room for {len(last)} "
            "of them; lower subset.floors"
        )
    return Queue(rows, int(last[-1]) + 1 if len(last) else 1)


def _merged(
    usable: Int[np.ndarray, " usable"], has_image: Bool[np.ndarray, " rows"], policy: str
) -> Int[np.ndarray, " merged"]:
    """Image rows and text-only rows in two lines, merged as long as the policy can be kept to."""
    pictured, textual = usable[has_image[usable]], usable[~has_image[usable]]
    if policy == "keep_all":
        return np.concatenate([textual, pictured])
    count, of_pool = len(has_image), int((~has_image).sum())
    budgets = np.arange(1, len(usable) + 1)
    texts = (2 * budgets * of_pool + count) // (2 * count)
    possible = (texts <= len(textual)) & (budgets - texts <= len(pictured))
    texts = texts[: np.argmin(possible) if not possible.all() else None]
    is_text = np.diff(texts, prepend=0).astype(bool)
    merged = np.empty(len(texts), dtype=usable.dtype)
    merged[is_text] = textual[: is_text.sum()]
    merged[~is_text] = pictured[: (~is_text).sum()]
    return merged


def cut(
    order: Int[np.ndarray, " rows"],
    budget: int,
    *,
    has_image: Bool[np.ndarray, " rows"],
    sources: np.ndarray,
    text_only: str = "proportional",
    floors: dict[str, int] | None = None,
    caps: dict[str, int] | None = None,
    lengths: Int[np.ndarray, " rows"] | None = None,
) -> Int[np.ndarray, " chosen"]:
    """The rows of a budget, ascending: the beginning of the `queue` that the rules make of `order`.

    `budget` counts rows or, given the tokens of every row as `lengths`, tokens: then the longest
    beginning that does not exceed it is cut, so it falls short by less than the next row has.
    Raises ValueError: the rules cannot be kept to at this budget; the message has both numbers.
    """
    waiting = queue(
        order, has_image=has_image, sources=sources, text_only=text_only, floors=floors, caps=caps
    )
    said = f"a budget of {budget} rows"
    if lengths is not None:
        spent = np.cumsum(lengths[waiting.rows])
        if len(spent) and budget > spent[-1]:
            raise ValueError(
                f"subset.tokens={budget} is over the {spent[-1]} tokens of the {len(spent)} rows "
                f"that pool, text_only={text_only} and caps allow; lower it"
            )
        said = f"subset.tokens={budget}"
        budget = int(np.searchsorted(spent, budget, side="right"))
        said += f", which {budget} rows fill,"
    if budget < waiting.least:
        raise ValueError(
            f"{said} is under the {waiting.least} rows that text_only={text_only} and floors "
            "ask for; raise it, or change subset.text_only or subset.floors"
        )
    if budget > len(waiting.rows):
        raise ValueError(
            f"{said} is over the {len(waiting.rows)} rows that text_only={text_only} and caps "
            f"leave of {int(has_image.sum())} with and {int((~has_image).sum())} without an image; "
            "lower it, or change subset.text_only or subset.caps"
        )
    return np.sort(waiting.rows[:budget])
