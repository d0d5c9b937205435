"""What is changed in a planted row: its question, its picture, its answers. Deterministic."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from xmas.data.images.bounds import decoding, file_of
from xmas.data.images.errors import image_error
from xmas.data.turns import ASSISTANT, USER, Turn

BEFORE = (  # the question, in a template
    "",
    "Look at this closely. ",
    "I would like to know this: ",
    "Here is what I want to ask. ",
    "Help me with the following. ",
    "One more question. ",
    "Tell me, please: ",
)
AFTER = ("", " Take your time.", " Thank you in advance.", " That is my question.", " I wonder.")
FILLER = "This is all that I have to say here, and I say it in full."
ONE_TOKEN = "."
_MARGIN = 0.05  # of a side that a crop removes, at most
_QUALITY = 75  # of the JPEG


def paraphrased(turns: Sequence[Turn], variant: int) -> list[Turn]:
    """The turns with their first question in one of 34 templates; images stay first."""
    which = 1 + variant % (len(BEFORE) * len(AFTER) - 1)
    before, after = BEFORE[which % len(BEFORE)], AFTER[which // len(BEFORE)]
    number = next(at for at, turn in enumerate(turns) if turn.role == USER)
    question = turns[number]
    places = tuple(place + len(before) if place else 0 for place in question.images)
    edited = replace(question, text=f"{before}{question.text}{after}", images=places)
    return [*turns[:number], edited, *turns[number + 1 :]]


def answered(turns: Sequence[Turn], answers: Sequence[str]) -> list[Turn]:
    """The turns with other answers, of which there are as many as the turns have.

    Raises ValueError: there are not.
    """
    places = [number for number, turn in enumerate(turns) if turn.role == ASSISTANT]
    edited = list(turns)
    for number, answer in zip(places, answers, strict=True):
        inside = tuple(min(place, len(answer)) for place in turns[number].images)
        edited[number] = replace(turns[number], text=answer, images=inside)
    return edited


def answers_of(turns: Sequence[Turn]) -> list[str]:
    return [turn.text for turn in turns if turn.role == ASSISTANT]


def padded(turns: Sequence[Turn], sentences: int) -> list[Turn]:
    """The turns with this many sentences that ask nothing after the first question.

    Not after the answer: what a model that has to learn them loses would not be their length.
    """
    number = next(at for at, turn in enumerate(turns) if turn.role == USER)
    question = turns[number]
    edited = replace(question, text=" ".join([question.text, *[FILLER] * sentences]))
    return [*turns[:number], edited, *turns[number + 1 :]]


def altered(image: Path | bytes, variant: int, max_pixels: int) -> bytes:
    """The picture with its sides cropped by up to 5 %, as a JPEG of quality 75.

    Args:
        variant: which sides are cropped, and how far: 16 of them differ.

    Raises ImageError: it cannot be read.
    """
    try:
        with file_of(image, max_pixels) as file:
            content = file.read()
        with decoding(content, max_pixels) as picture:
            cropped = picture.convert("RGB").crop(_box(picture.size, variant))
    except Exception as error:  # Pillow's plugins raise what damage leads them to
        raise image_error(image, error) from error
    encoded = io.BytesIO()
    cropped.save(encoded, "JPEG", quality=_QUALITY)
    return encoded.getvalue()


def _box(size: tuple[int, int], variant: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of what is left: each side loses half a margin or a whole one."""
    width, height = size
    parts = [_MARGIN * (1 + (variant >> side & 1)) / 2 for side in range(4)]
    left, right = round(width * parts[0]), width - round(width * parts[2])
    top, bottom = round(height * parts[1]), height - round(height * parts[3])
    return left, top, max(right, left + 1), max(bottom, top + 1)
