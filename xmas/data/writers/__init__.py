"""Trainers' formats, a module each; a module in this folder is found without being listed anywhere.

A module has the function of `Writer`, and may have those of `Registered` and `Explained`. What only
its format needs is imported inside `write`.
"""

import functools
import importlib
import logging
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Int

from xmas.data.chosen_rows import in_whole
from xmas.data.json_files.json_rows import JsonRows
from xmas.data.readers.llava import LlavaRows
from xmas.data.records.of_trainers import LLAVA, MESSAGES, is_message_record
from xmas.data.rows import Rows
from xmas.data.tables.arrow_rows import ArrowRows
from xmas.store.nearest import suggestion

log = logging.getLogger(__name__)

DEFAULT = "llava"  # written for every subset whose pictures are files

OF_MESSAGES = ("messages", "records")  # formats of pools that are JSON, not LLaVA's


@runtime_checkable
class Writer(Protocol):
    """A module of this package."""

    def write(
        self, rows: Rows, chosen: Int[np.ndarray, " chosen"], folder: Path
    ) -> Sequence[str] | None:
        """Write the `chosen` rows of a pool into `folder`, in this order, as a trainer reads them.

        Returns sentences that a user of the files should know, if there are any. Raises ValueError:
        a row cannot be said in this format; names file, row, value, remedy.
        """
        ...


@runtime_checkable
class Registered(Protocol):
    """A writer whose trainers read a registry."""

    def registry(self, rows: Rows, count: int, place: Path) -> Mapping[str, str]:
        """The trainers' registry files, name and text.

        Args:
            count: the number of rows that were written.
            place: the folder where they will be, as a whole path.
        """
        ...


@runtime_checkable
class Explained(Protocol):
    """A writer that says how its files are trained on."""

    def training(self, rows: Rows, place: Path) -> str:
        """Commands, with the names of the files, for `README.txt`."""
        ...


def names() -> list[str]:
    """The names of all formats."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@functools.cache  # a subset asks for each of its forms several times
def writer_of(name: str) -> Writer:
    """The writer called `name`. Raises ValueError: no such format."""
    if name not in names():
        raise ValueError(
            f"subset.write names {name!r}, which is no format{suggestion(str(name), names())}. "
            "A format is a module of xmas/data/writers"
        )
    return cast("Writer", importlib.import_module(f"{__name__}.{name}"))


def is_ranked(name: str) -> bool:
    """Whether a format has every row that a subset's rules allow, best first, for all budgets.

    Its module says so with `RANKED = True`. Raises ValueError: no such format.
    """
    return getattr(writer_of(name), "RANKED", False)


def form_of(rows: Rows) -> str:
    """The format in which rows of a pool are as they were: that of its files.

    Of JSON it follows from the first record that has pictures, or by the first one.
    """
    rows, _ = in_whole(rows, np.arange(0))
    if isinstance(rows, ArrowRows):
        return "parquet"
    if not isinstance(rows, JsonRows):
        return DEFAULT
    first = int(np.argmax(rows.has_image)) if len(rows) else None
    record = {} if first is None else rows[first]
    if isinstance(rows, LlavaRows) and not record.get("images"):
        return DEFAULT
    if any(is_message_record(record, words) for words in (MESSAGES, LLAVA)):
        return "messages"
    return "records"


def write_form(
    name: str, rows: Rows, chosen: Int[np.ndarray, " chosen"], folder: Path, place: Path
) -> list[str]:
    """Write rows in the format called `name`, with its registry; returns the writer's sentences.

    Args:
        place: where `folder` will be when it is complete, as a whole path.
    """
    writer = writer_of(name)
    remarks = list(writer.write(rows, chosen, folder) or ())
    for remark in remarks:
        log.info("%s: %s", name, remark)
    if isinstance(writer, Registered):
        for file, text in writer.registry(rows, len(chosen), place).items():
            (folder / file).write_text(text, encoding="utf-8")
    return remarks
