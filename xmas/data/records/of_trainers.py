"""Conversations in the words of trainers: LLaVA's records, and messages of role and content."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from xmas.data.faults import Fault
from xmas.data.records.dialogues import places, speeches_of
from xmas.data.records.identity import DATA
from xmas.data.records.record_faults import fault_in
from xmas.data.rows import PoolError, Rows
from xmas.data.turns import ASSISTANT, SYSTEM, USER

_CONVERSATION = ("conversations", "messages", "texts", "prompt", "completion", "image", "images")


@dataclasses.dataclass(frozen=True)
class Words:
    """What a trainer calls the parts of a conversation.

    Args:
        turns: the key of the list of turns.
        role: the key of a turn's speaker.
        text: the key of a turn's text.
        speakers: the names of `SYSTEM`, `USER` and `ASSISTANT`.
    """

    turns: str
    role: str
    text: str
    speakers: Mapping[str, str]


LLAVA = Words("conversations", "from", "value", {SYSTEM: "system", USER: "human", ASSISTANT: "gpt"})
MESSAGES = Words(
    "messages", "role", "content", {SYSTEM: "system", USER: "user", ASSISTANT: "assistant"}
)


def llava_record(rows: Rows, row: int, names: Sequence[str]) -> bytes:
    """A row in LLaVA's format: `image` is a name or a list, which is left out without a picture.

    Args:
        names: of the pictures of the row.

    Raises PoolError: a text has an image placeholder without an image; names file and row.
    """
    record: dict[str, Any] = {"id": row, "source": str(rows.sources[row])}
    if names:
        record["image"] = names[0] if len(names) == 1 else list(names)
    record["conversations"] = spoken(rows, row, LLAVA, opening="\n")
    return _encoded(checked(rows, row, record, llava=True))


def message_record(rows: Rows, row: int, names: Sequence[str], words: Words = MESSAGES) -> bytes:
    """A row as messages with texts, and all of its `images`; what follows a picture that opens a
    text is left to the trainer's template.

    Raises PoolError: see `llava_record`.
    """
    record = {
        words.turns: spoken(rows, row, words),
        "images": list(names),
        "source": str(rows.sources[row]),
    }
    return _encoded(checked(rows, row, record))


def is_message_record(record: Any, words: Words) -> bool:
    """Whether a record of a pool is as `message_record` writes it, or has further keys: turns under
    these words, texts with a placeholder for each picture, all pictures files in `images`.
    """
    turns = record.get(words.turns)
    others = [name for name in _CONVERSATION if name not in (words.turns, "images")]
    if any(record.get(name) for name in others) or not isinstance(turns, list):
        return False
    speakers = words.speakers.values()
    for turn in turns:
        if turn.get(words.role) not in speakers or not isinstance(turn.get(words.text), str):
            return False
    images = record.get("images") or []
    are_files = all(isinstance(image, str) and not image.startswith(DATA) for image in images)
    count = sum(places(text) for _, text in speeches_of(record))
    return isinstance(images, list) and are_files and count == len(images)


def spoken(
    rows: Rows, row: int, words: Words = MESSAGES, *, opening: str = ""
) -> list[dict[str, str]]:
    """The turns of a row in a trainer's words, texts with a placeholder for each picture.

    Args:
        opening: follows pictures that open a text.
    """
    return [
        {words.role: words.speakers[turn.role], words.text: turn.written(opening)}
        for turn in rows.turns(row)
    ]


def checked(rows: Rows, row: int, record: dict[str, Any], *, llava: bool = False) -> dict[str, Any]:
    """The record made of a row. Raises PoolError: it is none; names file, row and reason."""
    if fault := fault_in(record, llava=llava):
        name = next((rows.picture_names[number] for number in rows.shown[row].tolist()), None)
        kind, reason = fault
        if name is None and not llava:
            reason += ", or write [trl], where a picture is no word of a text"
        number = rows.file_row(row)
        raise PoolError(f"{rows.annotations}: {Fault(number, number, name, kind, reason)}")
    return record


def _encoded(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()
