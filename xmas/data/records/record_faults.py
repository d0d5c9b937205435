"""What is wrong with a record of a pool, as a kind to count by and a reason with a remedy."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xmas.data.records.dialogues import (
    ROLES,
    Record,
    Speech,
    images_of,
    is_image,
    keys_of,
    places,
    speeches_of,
    words_of,
)
from xmas.data.turns import ASSISTANT, IMAGE_PLACEHOLDER, SYSTEM, USER

# What other trainers call an image; a row without `image` and `images` is text.
OTHER_KEYS = (
    *("image_path", "image_paths", "image_file", "image_url", "img", "img_path", "Image"),
    *("picture", "pictures", "photo", "photos"),
)
UNREAD = ("id", "source", "data_source")  # may end as an image file's name does
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
OTHER_MEDIA = ("video", "videos", "video_path", "audio", "audios", "audio_path")
_MEDIA_PARTS = ("video", "video_url", "audio", "audio_url", "input_audio")
_LLAVA_ROLES = ("human", "gpt", "system")
_NO_MEDIA = "which no model here takes; remove the row, or give frames of a video as images"

Faults = Iterator[tuple[str, str]]


def fault_in(record: Any, *, llava: bool = False) -> tuple[str, str] | None:
    """(kind, reason) of the first fault of a record; None: it is a conversation.

    The kinds are few, so that rows with the same fault can be counted together.

    Args:
        llava: turns are under `conversations`, {from, value}, from human, gpt and system, and every
            image has a placeholder.
    """
    return next(_faults(record, llava), None)


def _faults(record: Any, llava: bool) -> Faults:
    if not isinstance(record, Mapping):
        yield "not an object", f"is {short(record)}, expected an object with `conversations`"
        return
    yield from _in_container(record, llava)
    speeches = list(speeches_of(record))
    yield from _in_turns(speeches, llava)
    for key in OTHER_MEDIA:
        if record.get(key):
            yield f"with `{key}`", f"has `{key}` {short(record[key])}, {_NO_MEDIA}"
    yield from _in_images(record, speeches, llava)


def _in_container(record: Record, llava: bool) -> Faults:
    """Faults after which there are no speeches."""
    names = ("conversations",) if llava else ("conversations", "messages")
    name = next((name for name in names if record.get(name)), names[0])
    turns = record.get(name)
    if not turns and not llava:
        for column in ("texts", "prompt"):
            if record.get(column):
                yield from _in_pairs(record) if column == "texts" else _in_prompt(record)
                return
    if not isinstance(turns, list) or not turns:
        yield (
            f"without {' or '.join(names)}",
            f"`{name}` is {short(turns)}, expected a list of turns; fix or remove the row",
        )
    for number, turn in enumerate(turns or ()):
        yield from _in_turn(number, turn, llava)


def _in_turn(number: int, turn: Any, llava: bool) -> Faults:
    role, text = ("from", "value") if llava else keys_of(turn)
    words = turn.get(text) if isinstance(turn, Mapping) else None
    other = llava and isinstance(turn, Mapping) and "role" in turn and "from" not in turn
    if other or not isinstance(words, str if llava else str | list):
        yield (
            "malformed turn",
            f"turn {number} is {short(turn)}, expected {{{role}, {text}}}; fix or remove the row",
        )


def _in_pairs(record: Record) -> Faults:
    for number, pair in enumerate(record["texts"]):
        words = [
            pair.get(name) if isinstance(pair, Mapping) else None for name in (USER, ASSISTANT)
        ]
        if not all(isinstance(text, str) for text in words):
            yield (
                "malformed turn",
                f"pair {number} of `texts` is {short(pair)}, expected {{user, assistant}}; fix or "
                "remove the row",
            )


def _in_prompt(record: Record) -> Faults:
    number = 0
    for name in ("prompt", "completion"):
        part = record.get(name)
        if not part or not isinstance(part, str | list):
            yield (
                "malformed turn",
                f"`{name}` is {short(part)}, expected a text or a list of turns; fix or remove the "
                "row",
            )
        for turn in part if isinstance(part, list) else ():
            yield from _in_turn(number, turn, llava=False)
            number += 1


def _in_turns(speeches: Sequence[Speech], llava: bool) -> Faults:
    known = _LLAVA_ROLES if llava else tuple(ROLES)
    for number, (role, text) in enumerate(speeches):
        if role not in known:
            expected = "'human' or 'gpt'" if llava else "'user' or 'assistant'"
            yield "unknown role", f"turn {number} is from {short(role)}, expected {expected}"
        for part in (text,) if isinstance(text, str) else text:
            yield from _in_part(number, part)
    names = [role for role, _ in speeches]
    roles = [ROLES[role] for role in names]
    rounds = roles[1:] if roles[:1] == [SYSTEM] else roles
    rounds = rounds[1:] if rounds[:1] == [ASSISTANT] else rounds
    if len(rounds) % 2 or rounds != [USER, ASSISTANT] * (len(rounds) // 2) or not rounds:
        human, model = ("human", "gpt") if llava else ("user", "assistant")
        yield (
            "turns out of order",
            f"turns come from {short(names)}, expected {human} and {model} in turn, {model} last; "
            "fix or remove the row",
        )


def _in_part(number: int, part: Any) -> Faults:
    kind = None if isinstance(part, str) else part.get("type") if isinstance(part, Mapping) else ""
    if kind in _MEDIA_PARTS:
        yield f"with `{kind}`", f"turn {number} has a part {short(part)}, {_NO_MEDIA}"
    if kind not in (None, "text", "image", "image_url") or not isinstance(words_of(part), str):
        yield (
            "malformed turn",
            f"turn {number} has a part {short(part)}, expected a text or an image",
        )
    text = words_of(part)
    if (place := half_character(text)) is not None:
        yield (
            "half a character",
            f"turn {number} has half a character, {text[place]!r}, at {place}: text was cut inside "
            "a pair of UTF-16 units; remove it",
        )


def _in_images(record: Record, speeches: Sequence[Speech], llava: bool) -> Faults:
    images = images_of(record, speeches)
    count = sum(places(text) for _, text in speeches)
    if not images:
        yield from _without_image(record, speeches, count, llava)
        return
    for image in images:
        yield from _in_image(image, "images" if record.get("images") else "image")
    if count != len(images) and (count or llava):
        one = len(images) == 1
        name = f" ({images[0]})" if one and isinstance(images[0], str) else ""
        yield (
            "number of placeholders",
            f"{count} {IMAGE_PLACEHOLDER} for {'one image' if one else f'{len(images)} images'}"
            f"{name}, expected exactly {len(images)}; add or remove placeholders",
        )


def _without_image(record: Record, speeches: Sequence[Speech], count: int, llava: bool) -> Faults:
    if record.get("image") == "" and count:  # some writers give text-only rows an ""
        yield "image is no path", "`image` is '', expected a relative path"
    if (key := unread_images(record)) is not None:
        yield (
            f"with `{key}` and no `image`",
            f"has `{key}` {short(record[key])} and no `image`, and would be taken for a row "
            "without one; rename it to `image`, a relative path, or set "
            f"'pool.columns={{images: {key}}}'",
        )
    if any(_means_image(role, text, llava) for role, text in speeches):
        yield (
            f"{IMAGE_PLACEHOLDER} without an image",
            f"has an {IMAGE_PLACEHOLDER} and no `image`; add its path, or remove the placeholder",
        )


def unread_images(record: Record) -> str | None:
    """The key of a record under which there are images, though it is none that is read."""
    for key, value in record.items():
        if value and (key in OTHER_KEYS or (key not in UNREAD and _look_like_images(value))):
            return key
    return None


def _look_like_images(value: Any) -> bool:
    """Whether a value names image files, or is an image of a dataset."""
    if isinstance(value, list):
        return bool(value) and all(map(_look_like_images, value))
    if isinstance(value, Mapping):
        return set(value) == {"bytes", "path"}
    return isinstance(value, str) and value.lower().endswith(IMAGE_SUFFIXES)


def _means_image(role: str, text: Any, llava: bool) -> bool:
    """Whether a turn has an image's part, or a question the placeholder: in LLaVA's format on a
    separate line, since it is a word of a sentence in rows of text.
    """
    if not isinstance(text, str):
        return any(map(is_image, text))
    if IMAGE_PLACEHOLDER not in text or ROLES[role] != USER:
        return False
    return not llava or any(line.strip() == IMAGE_PLACEHOLDER for line in text.splitlines())


def _in_image(image: Any, key: str) -> Faults:
    if isinstance(image, Mapping):
        if image.get("bytes"):
            return
        image = image.get("path")
    if not isinstance(image, str) or not image:
        yield "image is no path", f"`{key}` is {short(image)}, expected a relative path"
    elif (place := half_character(image)) is not None:
        yield (
            "half a character",
            f"`{key}` {image!r} has half a character, {image[place]!r}, at {place}; rename the "
            "file, and remove it here",
        )
    elif "://" in image and not image.startswith("data:"):
        yield (
            "image is a URL",
            f"`{key}` is {short(image)}, a URL; download it and give its path",
        )


def half_character(text: str) -> int | None:
    """The place of the first surrogate: JSON may contain one, no tokenizer and no file name can."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def short(value: Any) -> str:
    """A value in a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
