"""LLaVA's format: `instructions.json`, which LLaVA, TinyLLaVA and this package's fits train on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from xmas.data.chosen_rows import in_whole
from xmas.data.faults import Fault
from xmas.data.readers.llava import LlavaRows
from xmas.data.record_faults import fault_in
from xmas.data.rows import PoolError, Rows
from xmas.data.turns import ASSISTANT, SYSTEM, USER

FILE = "instructions.json"
_SPEAKERS = {SYSTEM: "system", USER: "human", ASSISTANT: "gpt"}


def write(rows: Rows, chosen: Int[np.ndarray, " chosen"], folder: Path) -> None:
    """Write the `chosen` rows as a JSON list: byte for byte where the pool is in LLaVA's format.

    Raises PoolError: a row of another format has an image placeholder in its text.
    """
    whole, numbers = in_whole(rows, chosen)
    if isinstance(whole, LlavaRows):
        rows, chosen = whole, numbers
    with (folder / FILE).open("wb") as file:
        file.write(b"[\n")
        for number, row in enumerate(chosen.tolist()):
            file.write((b",\n" if number else b"") + _record(rows, row))
        file.write(b"\n]\n")


def _record(rows: Rows, row: int) -> bytes:
    if isinstance(rows, LlavaRows):
        return rows.raw(row)
    record: dict[str, Any] = {"id": row, "source": str(rows.sources[row])}
    names = [rows.picture_names[int(number)] for number in rows.shown[row]]
    if names:
        record["image"] = names[0] if len(names) == 1 else names
    record["conversations"] = [
        {"from": _SPEAKERS[turn.role], "value": turn.written()} for turn in rows.turns(row)
    ]
    if fault := fault_in(record, llava=True):
        number = rows.file_row(row)
        raise PoolError(
            f"{rows.annotations}: {Fault(number, number, names[0] if names else None, *fault)}"
        )
    return json.dumps(record, ensure_ascii=False).encode()
