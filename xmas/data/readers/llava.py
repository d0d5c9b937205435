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

from xmas.data.faults import Fault, id_of, refusal
from xmas.data.json_list import elements
from xmas.data.rows import Rows

IMAGE_PLACEHOLDER = "<image>"
TEXT, NO_FOLDER = "text", "images"  # sources of rows without an image, or without a folder of it


def recognises(annotations: Path, head: bytes) -> bool:
    """Whether a file begins as a JSON list whose records have `conversations`."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[") and b'"conversations"' in head


def read(annotations: Path, images: Path) -> "LlavaRows":
    """Open a pool in LLaVA's format. Raises PoolError: see `LlavaRows`."""
    return LlavaRows(annotations, images)


def read_all(annotations: Path, images: Path) -> "LlavaRows":
    """Open a pool in LLaVA's format, with malformed rows in `faults`. Raises PoolError: the file is
    no JSON list.
    """
    return LlavaRows(annotations, images, refuse=False)


class LlavaRows(Rows):
    """A pool in LLaVA's format. A row's source is the record's `source`, else the first folder of
    its image below the image folder, "images" for one without a folder, "text" for a row without
    an image.
    """

    def __init__(
        self, annotations: Path, images: Path, *, chunk: int = 1 << 22, refuse: bool = True
    ) -> None:
        """Index the file.

        Args:
            chunk: bytes of the file that are read at a time.
            refuse: raise for malformed rows; False: leave them in `faults`.

        Raises:
            PoolError: see `json_list.elements`.
            FaultyRowsError: a PoolError with all malformed rows.
        """
        spans = array("q")

        def index() -> Iterator[tuple[str | None, str]]:
            for row, (start, stop, record) in enumerate(elements(annotations, chunk=chunk)):
                spans.extend((start, stop))
                if (fault := fault_in(record)) is None:
                    yield record.get("image") or None, source_of(record, images)
                else:
                    faults.append(_fault(row, record, *fault))
                    yield None, TEXT

        faults: list[Fault] = []
        super().__init__(annotations, images, index())
        self.faults = faults
        if faults and refuse:
            raise refusal(annotations, len(self), faults)
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
        return self._image_turn(row) // 2

    def image_in_answer(self, row: int) -> bool:
        """As in LLaVA's own loader, the image is then at the start of this answer."""
        return self._image_turn(row) % 2 == 1

    def _image_turn(self, row: int) -> int:
        """The number of the turn with the placeholder, after a first one of the model; or 0."""
        turns = [turn["value"] for turn in self._turns(row)]
        return next((at for at, text in enumerate(turns) if IMAGE_PLACEHOLDER in text), 0)

    def _turns(self, row: int) -> list[dict[str, str]]:
        turns = self[row]["conversations"]
        return turns[1:] if turns[0]["from"] == "gpt" else turns


# What other trainers call an image; LLaVA's key is `image`, and a row without it is text.
OTHER_KEYS = (
    *("images", "image_path", "image_paths", "image_file", "image_url", "img", "img_path", "Image"),
    *("picture", "pictures", "photo"),
)
OTHER_MEDIA = ("video", "videos", "video_path", "audio", "audios", "audio_path")


def fault_in(record: Any) -> tuple[str, str] | None:
    """(kind, reason) of the first fault of a record; None: it is a conversation in LLaVA's format.

    The kinds are few, so that rows with the same fault can be counted together.
    """
    if not isinstance(record, dict):
        return "not an object", f"is {_short(record)}, expected an object with `conversations`"
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        return (
            "without conversations",
            f"`conversations` is {_short(turns)}, expected a list of turns; fix or remove the row",
        )
    return _fault_in_turns(turns) or _fault_in_image(record, turns)


def _fault_in_turns(turns: list[Any]) -> tuple[str, str] | None:
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            return (
                "malformed turn",
                f"turn {number} is {_short(turn)}, expected {{from, value}}; fix or remove the row",
            )
        if turn.get("from") not in ("human", "gpt"):
            return (
                "unknown role",
                f"turn {number} is from {_short(turn.get('from'))}, expected 'human' or 'gpt'",
            )
        if (place := _half_character(turn["value"])) is not None:
            return (
                "half a character",
                f"turn {number} has half a character, {turn['value'][place]!r}, at {place}: text "
                "was cut inside a pair of UTF-16 units; remove it",
            )
    roles = [turn["from"] for turn in turns]
    rounds = roles[1:] if roles[0] == "gpt" else roles
    if len(rounds) % 2 or rounds != ["human", "gpt"] * (len(rounds) // 2) or not rounds:
        return (
            "turns out of order",
            f"turns come from {_short(roles)}, expected human and gpt in turn, gpt last; "
            "fix or remove the row",
        )
    return None


def _fault_in_image(record: dict[str, Any], turns: list[dict[str, str]]) -> tuple[str, str] | None:
    image = record.get("image")
    texts = [turn["value"] for turn in turns]
    count = sum(text.count(IMAGE_PLACEHOLDER) for text in texts)
    for key in OTHER_MEDIA:
        if record.get(key):
            return (
                f"with `{key}`",
                f"has `{key}` {_short(record[key])}, which no model here takes; remove the row, or "
                "give frames of a video as images",
            )
    if image is None or (image == "" and not count):  # some writers give text-only rows an ""
        for key in OTHER_KEYS:
            if record.get(key):
                return (
                    f"with `{key}` and no `image`",
                    f"has `{key}` {_short(record[key])} and no `image`, and would be taken for a "
                    "row without one; rename it to `image`, a relative path",
                )
        if any(_own_line(turn) for turn in turns):
            return (
                f"{IMAGE_PLACEHOLDER} without an image",
                f"has an {IMAGE_PLACEHOLDER} and no `image`; add its path, or remove the "
                "placeholder",
            )
        return None
    if not isinstance(image, str) or not image:
        return "image is no path", f"`image` is {_short(image)}, expected a relative path"
    if (place := _half_character(image)) is not None:
        return (
            "half a character",
            f"`image` {image!r} has half a character, {image[place]!r}, at {place}; rename the "
            "file, and remove it here",
        )
    if "://" in image:
        return "image is a URL", f"`image` is {_short(image)}, a URL; download it and give its path"
    if count != 1:
        return (
            "number of placeholders",
            f"{count} {IMAGE_PLACEHOLDER} for one image ({image}), expected exactly "
            "1; add or remove placeholders",
        )
    return None


def _own_line(turn: dict[str, str]) -> bool:
    """Whether a question has the placeholder on a separate line, where an image is meant."""
    text = turn["value"]
    return (
        IMAGE_PLACEHOLDER in text
        and turn["from"] == "human"
        and any(line.strip() == IMAGE_PLACEHOLDER for line in text.splitlines())
    )


def _half_character(text: str) -> int | None:
    """The place of the first surrogate: JSON may contain one, no tokenizer and no file name can."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def source_of(record: dict[str, Any], images: Path) -> str:
    """The source of a row: see `LlavaRows`. Paths are compared without `.` and `..`, and an
    absolute one below the image folder is taken from there.
    """
    name = record.get("source")
    if isinstance(name, str) and _half_character(name) is None:
        return name
    image = record.get("image")
    if not image:
        return TEXT
    path = image
    if "//" in path or "./" in path or path.startswith("/"):  # rare, and slower
        path = os.path.normpath(path)
        if os.path.isabs(path):
            path = os.path.relpath(path, os.path.abspath(images))
    folders = [part for part in path.split("/")[:-1] if part != ".."]
    return folders[0] if folders else NO_FOLDER


def _fault(row: int, record: Any, kind: str, reason: str) -> Fault:
    fields = record if isinstance(record, dict) else {}
    image = fields.get("image")
    return Fault(
        row, id_of(fields.get("id")), image if isinstance(image, str) else None, kind, reason
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
