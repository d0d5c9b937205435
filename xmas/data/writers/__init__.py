"""Trainers' formats, a module each; a module in this folder is found without being listed anywhere.

A module has the function of `Writer`. What only its format needs is imported inside `write`.
"""

import importlib
import pkgutil
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Int

from xmas.data.rows import Rows

DEFAULT = "llava"  # written for every subset


@runtime_checkable
class Writer(Protocol):
    """A module of this package."""

    def write(self, rows: Rows, chosen: Int[np.ndarray, " chosen"], folder: Path) -> None:
        """Write the `chosen` rows of a pool into `folder`, in this order, as a trainer reads them.

        Raises ValueError: a row cannot be said in this format; names file, row, value, remedy.
        """
        ...


def names() -> list[str]:
    """The names of all formats."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def writer_of(name: str) -> Writer:
    """The writer called `name`. Raises ValueError: no such format."""
    if name not in names():
        raise ValueError(
            f"subset.write names {name!r}, which is no format; there are {', '.join(names())}. "
            "A format is a module of xmas/data/writers"
        )
    return cast("Writer", importlib.import_module(f"{__name__}.{name}"))
