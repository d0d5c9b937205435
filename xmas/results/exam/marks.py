"""The marks of an exam: one number each, with its interval and what chance gives."""

import csv
import dataclasses
import io
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from xmas.results.escaping import csv_text
from xmas.results.statistics.bootstrap import Interval, over_seeds

STABILITY, REMEDY, PLANTED, COVERAGE, LENGTH, ORDER = (
    "stability", "remedy", "planted", "coverage", "length", "order",
)  # fmt: skip
_DRAWS = 4000


@dataclasses.dataclass(frozen=True)
class Mark:
    """One measured number of a selector.

    Attributes:
        budget: share of the pool; None where it is of the whole order.
        part: of the exam: one of the names above.
        name: what was measured: `proxy seeds`, `exact`, `sources`.
        value: mean over `count` measurements.
        low, high: in part `stability` and `remedy` the lowest and highest; else the 95 % interval
            of the mean over seeds; None of one measurement.
        chance: the same of random subsets, or of rows that were not planted.
        share: in part `planted`, the share of these rows that is kept, `value` its ratio to
            `chance`.
    """

    selector: str
    budget: float | None
    part: str
    name: str
    value: float
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    share: float | None = None
    count: int = 1


def mean_of(values: Sequence[float]) -> float:
    """The mean of those that are numbers; NaN without any."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else float("nan")


def over_measurements(
    values: Sequence[float], *, name: str
) -> tuple[float, float | None, float | None, int]:
    """Mean, and the bounds of its 95 % interval by Student's t, as the table has them; NaNs are
    left out.

    Args:
        name: of the generator's seed.
    """
    finite = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    if len(finite) < 2:
        return mean_of(values), None, None, len(finite)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    interval = Interval.of(finite.mean() + over_seeds(finite, _DRAWS, rng))
    return float(finite.mean()), interval.low, interval.high, len(finite)


def as_csv(marks: Iterable[Mark]) -> str:
    """A line for every mark, at full precision."""
    text = io.StringIO()
    names = [field.name for field in dataclasses.fields(Mark)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for mark in marks:
        fields = [getattr(mark, name) for name in names]
        writer.writerow([csv_text(field) if isinstance(field, str) else field for field in fields])
    return text.getvalue()


def read(lines: Iterable[dict[str, Any]]) -> list[Mark]:
    """The marks of an `exam.json`."""
    return [
        Mark(**{**line, "value": float("nan") if line["value"] is None else line["value"]})
        for line in lines
    ]


def plain(mark: Mark) -> dict[str, object]:
    """A mark for JSON, which has no NaN."""
    fields = dataclasses.asdict(mark)
    return {
        name: None if isinstance(field, float) and not math.isfinite(field) else field
        for name, field in fields.items()
    }
