"""Entries of a store as lines of text, with sizes and times that people read."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from xmas.results.contents import Entry

_PREFIXES = ("", "k", "M", "G", "T", "P")
_SPANS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0))


def size_text(count: float) -> str:
    """Bytes with three digits and a prefix of powers of a thousand: `451 MB`."""
    power = 0
    while count >= 999.5 and power < len(_PREFIXES) - 1:
        count, power = count / 1000, power + 1
    digits = 0 if count >= 99.5 or power == 0 else (1 if count >= 9.95 else 2)
    return f"{count:.{digits}f} {_PREFIXES[power]}B"


def time_text(seconds: float) -> str:
    """A span of time in the largest unit of which there is at least one: `2.5 h`, `12 d`."""
    for unit, length in _SPANS:
        if seconds >= length:
            return f"{seconds / length:,.{0 if seconds >= 10 * length else 1}f} {unit}"
    return f"{seconds:.{0 if seconds >= 9.95 else 1}f} s"


def columns(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Rows of equal length as aligned lines; `right`: the columns that are aligned on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if place in right else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def listed(entries: Sequence[Entry]) -> list[str]:
    """A line for each entry under a heading; labels that several share are extended."""
    now = time.time()
    labels = distinct_labels(entries)
    rows = [("kind", "key", "made from", "size", "computed in", "age")]
    rows += [
        (
            entry.kind,
            entry.key,
            text,
            size_text(entry.bytes),
            "" if entry.seconds is None else time_text(entry.seconds),
            time_text(max(0.0, now - entry.changed)),
        )
        for entry, text in zip(entries, labels, strict=True)
    ]
    return columns(rows, right=(3, 4, 5))


def total(entries: Sequence[Entry]) -> str:
    """`3 results, 451 MB, 2.1 h of computing`."""
    seconds = sum(entry.seconds or 0.0 for entry in entries)
    size = size_text(sum(entry.bytes for entry in entries))
    number = f"{len(entries)} result{'' if len(entries) == 1 else 's'}"
    return f"{number}, {size}, {time_text(seconds)} of computing"


def distinct_labels(entries: Sequence[Entry], *, most: int = 3) -> list[str]:
    """The label of each entry, followed by up to `most` settings where others of its kind share it.

    Settings are named by the last part of their path: `rate=0.001`.
    """
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.kind, entry.label), []).append(entry)
    settings = {
        key: key_settings
        for members in groups.values()
        if len(members) > 1
        for key, key_settings in _differences(members, most).items()
    }
    return [", ".join([entry.label, *settings.get(entry.key, [])]) for entry in entries]


def _differences(members: Sequence[Entry], most: int) -> dict[str, list[str]]:
    """By key, the settings in which some of the members differ, those nearest to the root first."""
    flat = {member.key: dict(_leaves(member.config)) for member in members}
    paths = sorted(
        {path for leaves in flat.values() for path in leaves},
        key=lambda path: (path.count("."), path),
    )
    varying = [path for path in paths if len({leaves.get(path) for leaves in flat.values()}) > 1]
    return {
        key: [f"{path.rpartition('.')[2]}={leaves.get(path, 'absent')}" for path in varying[:most]]
        for key, leaves in flat.items()
    }


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _leaves(child, f"{path}.{name}")
    elif isinstance(value, list):
        for place, child in enumerate(value):
            yield from _leaves(child, f"{path}.{place}")
    else:
        yield path, f"{value:g}" if isinstance(value, float) else str(value)
