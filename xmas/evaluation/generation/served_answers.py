"""Answers of an OpenAI-compatible server: requests in flight, lines on disk as replies arrive.

Answers that are on disk are not asked for again, also after a kill. The answers file is the one
that local generation writes.
"""

import base64
import dataclasses
import functools
import io
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from xmas.data.images.bounds import file_of
from xmas.data.images.files import decoded
from xmas.evaluation.endpoint.concurrent_requests import concurrent_replies
from xmas.evaluation.endpoint.responses import NoTextError
from xmas.evaluation.generation.answer_file import (
    GenerationError,
    answer_line,
    merge_parts,
    name_of_question,
    part_of,
    records_by_position,
)
from xmas.evaluation.generation.endpoint_generation import EndpointGeneration
from xmas.evaluation.protocol import Question
from xmas.store.lines import appending, keep_whole_lines
from xmas.store.progress import bar

log = logging.getLogger(__name__)

_SYNC = 10.0  # seconds of answers that a power cut may cost; a killed process loses none
_UNCHANGED = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
_ORIENTATION = 0x0112  # EXIF's tag
_NO_ANSWER = ("abort", "content_filter", "error", "function_call", "tool_calls")  # finish reasons


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A question that is asked; messages call it `name`."""

    position: int
    name: str

    def __str__(self) -> str:
        return self.name


def ask_endpoint(
    generation: EndpointGeneration,
    questions: Sequence[Question],
    *,
    model: str,
    max_new_tokens: int,
    out: Path,
    model_id: str,
    label: str,
) -> dict[str, Any]:
    """Write `out`, LLaVA's answer lines in the order of the questions; what the replies said.

    Args:
        model: as the server calls it.
        max_new_tokens: per answer.
        model_id: of the answer lines.
        label: the benchmark, in messages and progress.

    Returns: `served`, the names that the server replied under; `cut`, how many answers ended at
    `max_new_tokens`.

    Raises:
        EndpointError: the server refuses a question or does not reply; names the question.
        GenerationError: an image is unreadable, or a reply is no answer; names the question.
            Earlier answers are kept.
    """
    order = generation.image_order(questions)
    images = range(len(questions)) if order is None else order.tolist()
    part = part_of(out, 0)
    keep_whole_lines(part)
    answered = records_by_position(out, questions)
    requests = [
        (
            _Asked(position, name := name_of_question(label, position, question)),
            functools.partial(
                _body, generation, question, questions[image].image, name, model, max_new_tokens
            ),
        )
        for position, (question, image) in enumerate(zip(questions, images, strict=True))
        if position not in answered
    ]
    endpoint_name = f"endpoint {generation.name}"
    with (
        appending(part, seconds=_SYNC) as append,
        bar(total=len(questions), label=label, unit="question", initial=len(answered)) as progress,
    ):
        for asked, reply in concurrent_replies(
            generation.endpoint, requests, at_once=generation.at_once, label=endpoint_name
        ):
            if isinstance(reply, NoTextError):
                raise GenerationError(f"{asked}: {reply}; see the server's log")
            if reply.finish_reason in _NO_ANSWER:
                raise GenerationError(
                    f"{asked}: the server ended the reply with {reply.finish_reason!r}, so that "
                    "it is no answer; see the server's log, and run again to resume"
                )
            line = answer_line(questions[asked.position], reply.content.strip(), model_id)
            noted = {"served": reply.served, "finish_reason": reply.finish_reason}
            append({"position": asked.position, "line": line, **noted})
            progress.update()
    records = records_by_position(out, questions).values()
    served = sorted({str(record["served"]) for record in records if record["served"]})
    if served and served != [model]:
        log.warning(
            "%s: asked for %s, the replies say %s; if that is another model, these are its answers",
            endpoint_name, model, ", ".join(served),
        )  # fmt: skip
    cut = Counter(record["finish_reason"] for record in records)["length"]
    merge_parts(out, questions, label)
    return {"served": served, "cut": cut}


def _body(
    generation: EndpointGeneration,
    question: Question,
    image: Path | bytes | None,
    name: str,
    model: str,
    max_new_tokens: int,
) -> dict[str, Any]:
    """The request: the image before the text, as a fit and the exported template have them.

    Raises GenerationError: the image is unreadable.
    """
    text: Any = question.prompt
    if image is not None:
        try:
            uri = data_uri(image)
        except ValueError as error:
            raise GenerationError(f"{name} cannot be asked: {error}") from error
        text = [
            {"type": "image_url", "image_url": {"url": uri}},
            {"type": "text", "text": question.prompt},
        ]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_new_tokens,
        "temperature": 0,
        "seed": generation.seed,
        **generation.options,
    }
    return {field: value for field, value in body.items() if value is not None}


def data_uri(image: Path | bytes) -> str:
    """An image for a request: its file as it is, or as PNG what local generation sees of it.

    Servers differ in what they do with transparency, EXIF's orientation, several frames and rare
    formats. Raises ImageError: the file is unreadable; names it.
    """
    with decoded(image) as picture:
        kind = _UNCHANGED.get(picture.format or "")
        if kind is not None and _is_plain(picture):
            with file_of(image) as file:
                content = file.read()
        else:
            kind, content = "image/png", _png(picture.convert("RGB"))
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _is_plain(picture: Image) -> bool:
    """Whether every decoder gives the same RGB pixels."""
    return (
        picture.mode in ("RGB", "L")
        and "transparency" not in picture.info
        and getattr(picture, "n_frames", 1) == 1
        and picture.getexif().get(_ORIENTATION, 1) == 1
    )


def _png(picture: Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
