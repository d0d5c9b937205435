"""Numbers out of a column of anybody's: finite, or missing where that is allowed."""

from collections.abc import Callable
from numbers import Real

import numpy as np
from jaxtyping import Float

MISSING = ("error", "last")


def finite(
    values: np.ndarray, place: Callable[[int], str], name: str, missing: str = "error"
) -> Float[np.ndarray, " rows"]:
    """The values as float64, NaN where there is none.

    Args:
        values: of any type; None or NaN where there is none.
        place: file and row of a value, for messages.
        name: of the column.
        missing: `error`: a missing value is refused.

    Raises ValueError: a value is no number, or infinite, or missing under `error`.
    """
    numbers = (
        values.astype(np.float64)
        if values.dtype.kind in "iuf"
        else np.array([_number(value) for value in values.tolist()], dtype=np.float64)
    )
    if (wrong := np.flatnonzero(np.isinf(numbers))).size:
        row = int(wrong[0])
        value = values[row].item() if isinstance(values[row], np.generic) else values[row]
        raise ValueError(
            f"{place(row)} has {name} {value!r}, which is {_fault(value)}; correct it, or set "
            "selector.column to a column of numbers"
        )
    if missing == "error" and (without := np.flatnonzero(np.isnan(numbers))).size:
        raise ValueError(
            f"{place(int(without[0]))} has no {name}, and with it {len(without)} of {len(numbers)} "
            "rows; add it, or rank such rows after all others: selector.missing=last"
        )
    return numbers


def _number(value: object) -> float:
    """A value as a float, NaN for None, infinite for what is no number."""
    if value is None:
        return np.nan
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        return np.inf
    return float(value)


def _fault(value: object) -> str:
    if isinstance(value, float):
        return "not finite"
    kind = {str: "text", bool: "true or false"}.get(type(value), f"of type {type(value).__name__}")
    return f"{kind}, not a number"
