"""LLaVA's format: a JSON list of `{"id", "image", "conversations": [{"from", "value"}, ...]}`.

The file is streamed once; of every record only its byte range is kept in addition to the index, so
that a subset's records are copied byte for byte. `id` is not a key: LLaVA-665k repeats ids.
"""

import json
import os
import weakref
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from xmas.data.json_list import elements
from xmas.data.rows import PoolError, Rows

IMAGE_PLACEHOLDER = "<image>"


def recognises(annotations: Path, head: bytes) -> bool:
    """Whether a file begins as a JSON list whose records have `conversations`."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[") and b'"conversations"' in head


def read(annotations: Path, images: Path) -> "LlavaRows":
    """Open a pool in LLaVA's format. Raises PoolError: see `check` and `json_list.elements`."""
    return LlavaRows(annotations, images)


class LlavaRows(Rows):
    """A pool in LLaVA's format. A row's source is the record's `source`, else the first folder of
    its image, "images" for one without a folder, "text" for a row without an image.
    """

    def __init__(self, annotations: Path, images: Path, *, chunk: int = 1 << 22) -> None:
        """Args:
        chunk: bytes of the file that are read at a time.
        """
        spans = array("q")

        def index() -> Iterator[tuple[str | None, str]]:
            for row, (start, stop, record) in enumerate(elements(annotations, chunk=chunk)):
                check(record, annotations, row)
                spans.extend((start, stop))
                yield record.get("image"), _source(record)

        super().__init__(annotations, images, index())
        self._spans: Int[np.ndarray, "rows 2"] = np.array(spans, dtype=np.int64).reshape(-1, 2)
        self._file = os.open(annotations, os.O_RDONLY)  # a map's pages would count as memory
        weakref.finalize(self, os.close, self._file)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return json.loads(self.raw(row))

    def raw(self, row: int) -> bytes:
        """The record of `row`, byte for byte as in the annotation file."""
        start, stop = self._spans[row].tolist()
        return os.pread(self._file, stop - start, start)

    def conversation(self, row: int) -> list[tuple[str, str]]:
        """As in LLaVA's own loader a first turn of the model is dropped, and only the turn that had
        the placeholder is stripped (`preprocess_multimodal` in LLaVA's `train.py`).
        """
        texts = [turn["value"] for turn in self._turns(row)]
        if self.has_image[row]:
            texts = [
                text.replace(IMAGE_PLACEHOLDER, "").strip() if IMAGE_PLACEHOLDER in text else text
                for text in texts
            ]
        return list(zip(texts[0::2], texts[1::2], strict=True))

    def image_round(self, row: int) -> int:
        questions = [turn["value"] for turn in self._turns(row)[0::2]]
        return next((at for at, text in enumerate(questions) if IMAGE_PLACEHOLDER in text), 0)

    def _turns(self, row: int) -> list[dict[str, str]]:
        turns = self[row]["conversations"]
        return turns[1:] if turns[0]["from"] == "gpt" else turns


def check(record: Any, path: Path, row: int) -> None:
    """Raise PoolError unless `record` is a conversation in LLaVA's format."""
    if not isinstance(record, dict):
        raise PoolError(
            f"{path}: row {row} is {_short(record)}, expected an object with `conversations`"
        )
    where = f"{path}: row {row} (id {record.get('id')!r})"
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise PoolError(
            f"{where}: `conversations` is {_short(turns)}, expected a list of turns; "
            "fix or remove the row"
        )
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise PoolError(
                f"{where}: turn {number} is {_short(turn)}, expected {{from, value}}; "
                "fix or remove the row"
            )
        if turn.get("from") not in ("human", "gpt"):
            raise PoolError(
                f"{where}: turn {number} is from {turn.get('from')!r}, expected 'human' or 'gpt'"
            )
    roles = [turn["from"] for turn in turns]
    rounds = roles[1:] if roles[0] == "gpt" else roles
    if len(rounds) % 2 or rounds != ["human", "gpt"] * (len(rounds) // 2) or not rounds:
        raise PoolError(
            f"{where}: turns come from {_short(roles)}, expected human and gpt in turn, gpt last; "
            "fix or remove the row"
        )
    image = record.get("image")
    if image is not None:
        if not isinstance(image, str) or not image:
            raise PoolError(f"{where}: `image` is {_short(image)}, expected a relative path")
        count = sum(turn["value"].count(IMAGE_PLACEHOLDER) for turn in turns)
        if count != 1:
            raise PoolError(
                f"{where}: {count} {IMAGE_PLACEHOLDER} for one image ({image}), expected exactly "
                "1; add or remove placeholders"
            )


def _source(record: dict[str, Any]) -> str:
    name = record.get("source")
    if isinstance(name, str):
        return name
    image = record.get("image")
    if not image:
        return "text"
    return image.split("/")[0] if "/" in image else "images"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
