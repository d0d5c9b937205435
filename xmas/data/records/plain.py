"""A fast check of a record: most of a pool's are a conversation of texts with one image or none.

What does not pass is read in full (`xmas.data.records.record_faults`); so this only makes a pool
open sooner.
"""

from typing import Any

from xmas.data.records.record_faults import OTHER_KEYS, OTHER_MEDIA, unread_images
from xmas.data.turns import IMAGE_PLACEHOLDER

_UNUSUAL = frozenset((*OTHER_KEYS, *OTHER_MEDIA, "images"))
_WORDS = {  # where turns are: role and text, and who speaks in turn
    "conversations": ("from", "value", ["human", "gpt"]),
    "messages": ("role", "content", ["user", "assistant"]),
}


def plain_images(record: Any, *, llava: bool) -> list[str] | None:
    """The image's path in a list, or an empty list, of a record that is without fault for sure;
    None: it is to be read in full.

    Args:
        llava: as in `record_faults.fault_in`.
    """
    if not isinstance(record, dict) or not _UNUSUAL.isdisjoint(record):
        return None
    name = "conversations" if llava or "conversations" in record else "messages"
    role, text, speakers = _WORDS[name]
    turns = record.get(name)
    if not isinstance(turns, list) or not turns:
        return None
    try:
        words = "\n".join([turn[text] for turn in turns])
        in_turn = [turn[role] for turn in turns] == speakers * (len(turns) // 2)
    except (TypeError, KeyError):  # a turn that is no object, or a text that is none
        return None
    if not in_turn or not (words.isascii() or _is_text(words)):
        return None
    count = words.count(IMAGE_PLACEHOLDER)
    image = record.get("image")
    if image is None:
        return None if count or unread_images(record) is not None else []
    usual = isinstance(image, str) and image.isascii() and ":" not in image
    return [image] if usual and image and count == 1 else None


def _is_text(words: str) -> bool:
    try:
        words.encode()
    except UnicodeEncodeError:
        return False
    return True
