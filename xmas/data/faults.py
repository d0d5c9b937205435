"""Rows of a pool that cannot be used: what is wrong with each, counted by kind, kept in a file.

A file of faults has one JSON object a line with the fields of `Fault`. Every check of rows writes
this one shape: the doctor, a fit that finds broken images, and a pool that leaves rows out.
"""

import dataclasses
import importlib.util
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from xmas.data.rows import PoolError

NAMED = 5  # rows in a line


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is wrong with one row.

    Args:
        row: its position in the annotation file.
        id: as the file has it; None without one.
        file: the image name as the file has it; None without an image.
        kind: a few words, the same for all rows with this fault: "image missing".
        reason: a clause, or a predicate that starts with "is" or "has", with the value, and what to
            do.
    """

    row: int
    id: str | int | None
    file: str | None
    kind: str
    reason: str

    def __str__(self) -> str:
        named = self.id is None or self.reason.startswith("image ")  # by the file
        subject = f"row {self.row}{'' if named else f' (id {self.id!r})'}"
        return f"{subject}{' ' if self.reason.startswith(('is ', 'has ')) else ': '}{self.reason}"


def id_of(value: Any) -> str | int | None:
    """The `id` of a record as a fault has it."""
    return value if value is None or isinstance(value, str | int) else str(value)


class FaultyRowsError(PoolError):
    """Rows of a pool cannot be used; `faults` has all of them."""

    def __init__(self, message: str, faults: Sequence[Fault]) -> None:
        super().__init__(message)
        self.faults = list(faults)


def by_kind(faults: Iterable[Fault]) -> dict[str, int]:
    """The number of rows of each kind of fault, the most frequent first."""
    return dict(Counter(fault.kind for fault in faults).most_common())


def counted(faults: Sequence[Fault]) -> str:
    """All kinds in one line, see `counted_kinds`."""
    return "; ".join(counted_kinds(faults))


def counted_kinds(faults: Sequence[Fault]) -> list[str]:
    """Every kind with its number of rows and the first of them.

    >>> from xmas.data.faults import Fault, counted_kinds
    >>> counted_kinds([Fault(row, None, None, "image missing", "...") for row in range(7)])
    ['image missing: 7 (rows 0, 1, 2, 3, 4 and 2 more)']
    """
    parts = []
    for kind, count in by_kind(faults).items():
        rows = [str(fault.row) for fault in faults if fault.kind == kind]
        more = f" and {count - NAMED:,} more" if count > NAMED else ""
        plural = "s" if count > 1 else ""
        parts.append(f"{kind}: {count:,} (row{plural} {', '.join(rows[:NAMED])}{more})")
    return parts


def refusal(
    annotations: Path, rows: int, faults: Sequence[Fault], *, report: Path | None = None
) -> FaultyRowsError:
    """The error for these faults: the first in full, then all counted by kind.

    Args:
        rows: of the pool.
        report: the file that lists all of them; None: `goal=doctor` writes it.
    """
    message = f"{annotations}: {faults[0]}"
    if len(faults) > 1:
        listed = "goal=doctor lists them all in a file" if report is None else f"all in {report}"
        message += f". {len(faults):,} of {rows:,} rows are unusable: {counted(faults)}; {listed}"
    message += f"; pool.invalid=skip leaves {'them' if len(faults) > 1 else 'it'} out"
    return FaultyRowsError(message, faults)


def write(faults: Iterable[Fault], path: Path) -> Path:
    """Write a file of faults, in the order of the rows; returns its path."""
    ordered = sorted(faults, key=lambda fault: fault.row)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(dataclasses.asdict(fault))}\n" for fault in ordered))
    return path


def write_parquet(faults: Iterable[Fault], path: Path) -> None:
    """Write faults as a table, in the order of the rows; nothing without pyarrow."""
    if importlib.util.find_spec("pyarrow") is None:
        return
    import pyarrow
    import pyarrow.parquet

    ordered = sorted(faults, key=lambda fault: fault.row)
    text = pyarrow.string()
    columns = {
        "row": pyarrow.array([fault.row for fault in ordered], pyarrow.int64()),
        "id": pyarrow.array([_text(fault.id) for fault in ordered], text),
        "file": pyarrow.array([fault.file for fault in ordered], text),
        "kind": pyarrow.array([fault.kind for fault in ordered], text),
        "reason": pyarrow.array([fault.reason for fault in ordered], text),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def _text(value: str | int | None) -> str | None:
    return None if value is None else str(value)


def read(path: Path) -> list[Fault]:
    """The faults in a file that `write` wrote."""
    return [Fault(**json.loads(line)) for line in path.read_text().splitlines()]
