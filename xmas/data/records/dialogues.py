"""Conversations as trainers write them: turns, roles, image placeholders and images of a record.

One reading serves JSON and Arrow. A record has its turns under `conversations` or `messages`
(from/value or role/content, the content a text or a list of parts as OpenAI's), as `texts` of
user/assistant pairs, or as `prompt` and `completion`; its images under `images` or `image`.
What may be wrong with a record is in `xmas.data.records.record_faults`.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from xmas.data.turns import ASSISTANT, IMAGE_PLACEHOLDER, SYSTEM, USER, Turn, turn_of

Record = Mapping[str, Any]
Speech = tuple[Any, Any]  # of a turn: who, and a text or a list of parts; as the record has them
ROLES = {
    **dict.fromkeys(("human", "user"), USER),
    **dict.fromkeys(("gpt", "assistant", "model"), ASSISTANT),
    "system": SYSTEM,
}
_KEYS = (("from", "value"), ("role", "content"))


def turns_of(record: Record) -> list[Turn]:
    """The turns of a record without fault.

    A first turn of the model is dropped, as in LLaVA's own loader; its images then open the first
    question. So do those of a row without any placeholder, as in TRL and nanoVLM.
    """
    speeches = list(speeches_of(record))
    images = len(images_of(record, speeches))
    turns = [_turn(ROLES[role], text, images) for role, text in speeches]
    early = () if any(turn.images for turn in turns) else (0,) * images
    at = 1 if turns[0].role == SYSTEM else 0
    if turns[at].role == ASSISTANT:
        early += (0,) * len(turns.pop(at).images)
    if early:
        turns[at] = dataclasses.replace(turns[at], images=early + turns[at].images)
    return turns


def speeches_of(record: Record) -> Iterator[Speech]:
    """Who says what in a record, in order."""
    turns = record.get("conversations") or record.get("messages")
    if turns:
        for turn in turns:
            role, text = keys_of(turn)
            yield turn.get(role), turn.get(text)
        return
    for pair in record.get("texts") or ():
        yield USER, pair["user"]
        yield ASSISTANT, pair["assistant"]
    for name, role in (("prompt", USER), ("completion", ASSISTANT)):
        part = record.get(name)
        if isinstance(part, str):
            yield role, part
        for turn in part if isinstance(part, list) else ():
            yield turn.get("role"), turn.get("content")


def images_of(record: Record, speeches: Iterable[Speech] | None = None) -> list[Any]:
    """The images of a record, in order, as it has them.

    Args:
        speeches: of the record, where they are known.
    """
    images = record.get("images") or record.get("image") or []
    listed = images if isinstance(images, list) else [images]
    spoken = speeches_of(record) if speeches is None else speeches
    texts = [text for _, text in spoken if isinstance(text, list)]
    if not texts:
        return listed
    column = iter(listed)
    inline = []
    for part in (part for text in texts for part in text if is_image(part)):
        value = _of_part(part)
        inline.append(next(column, None) if value is None else value)
    return [*inline, *column]


def keys_of(turn: Any) -> tuple[str, str]:
    """Under which keys a turn has its role and its text."""
    return next((keys for keys in _KEYS if isinstance(turn, Mapping) and keys[0] in turn), _KEYS[0])


def is_image(part: Any) -> bool:
    """Whether a part of a turn is an image."""
    return isinstance(part, Mapping) and part.get("type") in ("image", "image_url")


def words_of(part: Any) -> Any:
    """The text of a part of a turn; empty for an image."""
    if isinstance(part, str):
        return part
    return "" if is_image(part) else part.get("text") or ""


def places(text: Any) -> int:
    """The number of images that a turn has a place for."""
    if isinstance(text, str):
        return text.count(IMAGE_PLACEHOLDER)
    return sum(is_image(part) or words_of(part).count(IMAGE_PLACEHOLDER) for part in text)


def _turn(role: str, text: Any, images: int) -> Turn:
    if not isinstance(text, str):
        parts = [IMAGE_PLACEHOLDER if is_image(part) else words_of(part) for part in text]
        text = "".join(parts)
    return turn_of(role, text, single=images == 1) if images else Turn(role, text)


def _of_part(part: Mapping[str, Any]) -> Any:
    """The image inside a part, if it is there: a path, a data URI, or bytes and path."""
    value = part.get("image_url") or part.get("image") or part.get("url") or part.get("path")
    return value.get("url") if isinstance(value, Mapping) and "url" in value else value
