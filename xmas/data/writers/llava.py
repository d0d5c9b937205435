"""LLaVA's format: `instructions.json`, which LLaVA, TinyLLaVA and this package's fits train on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from xmas.data.faults import Fault
from xmas.data.readers.llava import IMAGE_PLACEHOLDER, LlavaRows, fault_in
from xmas.data.rows import PoolError, Rows

FILE = "instructions.json"


def write(rows: Rows, chosen: Int[np.ndarray, " chosen"], folder: Path) -> None:
    """Write the `chosen` rows as a JSON list: byte for byte where the pool is in LLaVA's format.

    Raises PoolError: a row of another format has an image placeholder in its text.
    """
    with (folder / FILE).open("wb") as file:
        file.write(b"[\n")
        for number, row in enumerate(chosen.tolist()):
            file.write((b",\n" if number else b"") + _record(rows, row))
        file.write(b"\n]\n")


def _record(rows: Rows, row: int) -> bytes:
    if isinstance(rows, LlavaRows):
        return rows.raw(row)
    record: dict[str, Any] = {"id": row, "source": str(rows.sources[row])}
    pictured = bool(rows.has_image[row])
    if pictured:
        record["image"] = rows.picture_names[rows.picture[row]]
    image_round = rows.image_round(row)
    turns = record["conversations"] = []
    for number, (question, answer) in enumerate(rows.conversation(row)):
        if pictured and number == image_round:
            if rows.image_in_answer(row):
                answer = f"{IMAGE_PLACEHOLDER}\n{answer}"
            else:
                question = f"{IMAGE_PLACEHOLDER}\n{question}"
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    if fault := fault_in(record):
        raise PoolError(f"{rows.annotations}: {Fault(row, row, record.get('image'), *fault)}")
    return json.dumps(record, ensure_ascii=False).encode()
