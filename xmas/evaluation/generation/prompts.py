"""Questions as token ids, grouped by the image that they show.

What several prompts share is found here: the image, and the tokens that precede every image.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int
from torch import Tensor

from xmas.data.images.files import open_image
from xmas.evaluation.generation.answer_file import GenerationError, name_of_question
from xmas.evaluation.protocol import Question
from xmas.models.chat.labels import Encoder
from xmas.models.chat.layout import FEATURE
from xmas.models.vlm import LoadedModel

Image = Path | bytes
ImageInputs = dict[str, Tensor]  # what the model's processor makes of an image


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A question as the token ids that a model is given."""

    position: int  # among all questions
    name: str  # for messages
    ids: Int[np.ndarray, " tokens"]  # those of the image included
    before: int  # tokens that precede the image, -1 without one
    up_to_image_end: int  # tokens up to the end of the image, 0 without one


@dataclasses.dataclass(frozen=True)
class PromptGroup:
    """The prompts that show one image, or a single prompt without an image."""

    image: Image | None
    prompts: tuple[Prompt, ...]


def group_prompts(
    parts: LoadedModel,
    encoder: Encoder,
    questions: Sequence[Question],
    *,
    image_order: Iterable[int],
    label: str,
) -> list[PromptGroup]:
    """Tokenise all questions, `questions[i]` with the image of `questions[image_order[i]]`.

    Groups are sorted by their longest prompt, longest first: too large a batch then fails at once,
    and prompts that run together need little padding. Raises GenerationError: an image is
    unreadable.
    """
    by_image: dict[object, list[Prompt]] = {}
    images: dict[object, Image | None] = {}
    for position, (question, source) in enumerate(zip(questions, image_order, strict=True)):
        image = questions[source].image
        name = name_of_question(label, position, question)
        with naming_errors(name):
            prompt = _prompt(parts, encoder, question.prompt, image, position, name)
        key = ("without", position) if image is None else ("with", image)
        by_image.setdefault(key, []).append(prompt)
        images[key] = image
    groups = [
        PromptGroup(images[key], tuple(sorted(prompts, key=_longest_first)))
        for key, prompts in by_image.items()
    ]
    return sorted(groups, key=lambda group: _longest_first(group.prompts[0]))


def _longest_first(prompt: Prompt) -> tuple[int, int]:
    return -len(prompt.ids), prompt.position


def _prompt(
    parts: LoadedModel, encoder: Encoder, text: str, image: Image | None, position: int, name: str
) -> Prompt:
    image_ids = None if image is None else parts.image_tokens(image)
    tokens = encoder.prompt(text, image=image_ids)
    ids, before = tokens.ids.astype(np.int64), tokens.image_at
    if image_ids is None:
        return Prompt(position, name, ids, before=-1, up_to_image_end=0)
    expanded = np.where(image_ids == FEATURE, parts.model.config.image_token_id, image_ids)
    ids = np.insert(ids, before, expanded)
    return Prompt(position, name, ids, before=before, up_to_image_end=before + len(expanded))


def shared_prefix(groups: Iterable[PromptGroup]) -> Int[np.ndarray, " prefix"]:
    """The token ids with which every prompt begins, before any image: mostly the system prompt."""
    prefixes = [
        prompt.ids[: prompt.before if group.image is not None else -1]
        for group in groups
        for prompt in group.prompts
    ]
    shortest = min(map(len, prefixes), default=0)
    if shortest == 0:
        return np.zeros(0, dtype=np.int64)
    first = prefixes[0][:shortest]
    equal = np.all([prefix[:shortest] == first for prefix in prefixes], axis=0)
    return first[: shortest if equal.all() else int(np.argmin(equal))]


class naming_errors:  # noqa: N801  # a context manager, used as a verb
    """Turns every error raised inside into a GenerationError that names the question."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, GenerationError):
            raise GenerationError(f"{self.name} cannot be answered: {error}") from error


def load_images(
    groups: Iterable[PromptGroup],
    read: Callable[[Image], ImageInputs],
    workers: int,
    *,
    ahead: int = 32,
) -> Iterator[tuple[PromptGroup, ImageInputs]]:
    """Groups with their images, in order.

    Args:
        read: see `image_reader`.
        workers: threads that decode images ahead; 0: each is read when it is needed.
        ahead: groups that are submitted to the threads before they are needed.
    """

    def load(group: PromptGroup) -> ImageInputs:
        with naming_errors(group.prompts[0].name):
            return {} if group.image is None else read(group.image)

    if workers == 0:
        yield from ((group, load(group)) for group in groups)
        return
    with ThreadPoolExecutor(workers) as threads:
        pending: list[tuple[PromptGroup, Future[ImageInputs]]] = []
        for group in groups:
            pending.append((group, threads.submit(load, group)))
            if len(pending) > ahead:
                first, inputs = pending.pop(0)
                yield first, inputs.result()
        yield from ((group, inputs.result()) for group, inputs in pending)


def image_reader(parts: LoadedModel) -> Callable[[Image], ImageInputs]:
    """A function that opens an image and applies the model's processor."""
    return lambda image: parts.processor.pictures([open_image(image)])
