"""Reads MMBench's TSV as pandas does, and writes xlsx files for its server."""

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from xmas.evaluation.protocol import AnswerError
from xmas.evaluation.text_files import ENCODING, not_utf_8

_MISSING = {  # what pandas.read_table reads as missing, in addition to any case of nan and none
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "1.#IND", "1.#QNAN", "<NA>",
    "N/A", "NA", "NULL", "n/a", "null", "-nan",
}  # fmt: skip


def missing(cell: str) -> bool:
    """Whether pandas reads a cell as a missing value."""
    return cell in _MISSING or cell.lower() in ("nan", "none")


def read_tsv(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The rows of the TSV. Raises AnswerError: no column of `columns`, a cut line, or no index."""
    limit = csv.field_size_limit(sys.maxsize)  # of the process; an image is longer than 128 KiB
    try:
        with path.open(encoding=ENCODING, newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            if absent := [name for name in columns if name not in (reader.fieldnames or ())]:
                raise AnswerError(f"{path}: no column {', '.join(absent)}")
            for row in reader:
                if None in row.values():
                    short = next(name for name, cell in row.items() if cell is None)
                    fault = f"no {short}, the line is cut short"
                elif None in row:
                    fault = "more cells than columns"
                elif not row["index"].isdecimal():
                    fault = f"index {row['index']!r} is not a number"
                else:
                    yield row
                    continue
                raise AnswerError(f"{path}: line {reader.line_num}: {fault}")
    except UnicodeDecodeError as error:
        raise not_utf_8(path, error) from error
    finally:
        csv.field_size_limit(limit)


def write_sheet(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str | int | None]]):
    """Write one sheet with a header row. Text stays text, also if it begins with "=".

    Raises ValueError: openpyxl is missing, or a text has characters that xlsx cannot store.
    """
    try:
        from openpyxl import Workbook
        from openpyxl.utils.exceptions import IllegalCharacterError
    except ModuleNotFoundError as error:
        raise ValueError("an xlsx is written by openpyxl: pip install 'xmas[xlsx]'") from error

    book = Workbook()
    sheet = book.worksheets[0]
    sheet.title = "Sheet1"
    for line, row in enumerate((columns, *rows), start=1):
        for column, value in enumerate(row, start=1):
            try:
                cell = sheet.cell(line, column, value)
            except IllegalCharacterError as error:
                raise ValueError(
                    f"{columns[column - 1]} of {row[0]}: {value!r} has characters that xlsx "
                    "cannot store"
                ) from error
            if isinstance(value, str):
                cell.data_type = "s"  # openpyxl reads "=" as the start of a formula
    book.save(path)
