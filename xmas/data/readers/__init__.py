"""Pool formats, a module each; a module in this folder is found without being listed anywhere.

A module has the two functions of `Reader`. What only its format needs is imported inside `read`.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from xmas.data.indexes.stored_index import StoredIndexes
from xmas.data.json_files.compressed import first_bytes
from xmas.data.rows import PoolError, Rows

DEFAULT = "llava"
_HEAD = 1 << 16  # bytes


@runtime_checkable
class Reader(Protocol):
    """A module of this package."""

    def recognises(self, annotations: Path, head: bytes) -> bool:
        """Whether a pool is of this format, by its path and the first 64 KiB of it, unpacked."""
        ...

    def read(self, annotations: Path, images: Path) -> Rows:
        """Open a pool. Raises PoolError: the file is malformed; names file, row, value, remedy.

        A reader may also take `columns`, names of the records' parts where they are not ours,
        `split`, and `indexes`, where to keep the index of a large pool.
        """
        ...


@runtime_checkable
class ReadsAll(Protocol):
    """A reader that can go on after a malformed row."""

    def read_all(self, annotations: Path, images: Path) -> Rows:
        """As `read`, with malformed rows in `Rows.faults`. Raises PoolError: no rows at all."""
        ...


def names() -> list[str]:
    """The names of all formats."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def reader_of(annotations: Path, name: str | None) -> Reader:
    """The reader called `name`, or the one that recognises the file.

    A file that no reader recognises is left to LLaVA's, whose messages say what is wrong with it.

    Raises:
        PoolError: there is no such format, or two recognise the file.
    """
    if name is not None:
        if name not in names():
            raise PoolError(
                f"pool.format={name}: no such format; there are {', '.join(names())}. "
                "A format is a module of xmas/data/readers"
            )
        return _reader(name)
    head = first_bytes(annotations, _HEAD)
    matching = [
        format_name for format_name in names() if _reader(format_name).recognises(annotations, head)
    ]
    if len(matching) > 1:
        raise PoolError(
            f"{annotations}: may be of the formats {', '.join(matching)}; name one with pool.format"
        )
    return _reader(matching[0] if matching else DEFAULT)


def open_rows(
    annotations: Path,
    images: Path,
    name: str | None,
    options: Mapping[str, Any],
    *,
    malformed_too: bool,
    indexes: StoredIndexes | None = None,
) -> Rows:
    """The rows of a pool.

    Args:
        name: of the format; None: see `reader_of`.
        options: of the reader: `columns`, what the records call their parts where it is not our
            name; `split`, of a dataset.
        indexes: where indexes of large pools are kept.
        malformed_too: leave malformed rows in `Rows.faults`, where the reader can go on.

    Raises PoolError: see `reader_of` and the reader.
    """
    reader = reader_of(annotations, name)
    goes_on = malformed_too and isinstance(reader, ReadsAll)
    read = cast("ReadsAll", reader).read_all if goes_on else reader.read
    for option, value in options.items():
        if option not in inspect.signature(read).parameters:
            raise PoolError(
                f"pool.{option}={value}: {annotations} is of a format without {option}; leave it "
                "out"
            )
    if indexes is not None and "indexes" in inspect.signature(read).parameters:
        options = {**options, "indexes": indexes}
    return cast("Any", read)(annotations, images, **options)


def _reader(name: str) -> Reader:
    return cast("Reader", importlib.import_module(f"{__name__}.{name}"))
