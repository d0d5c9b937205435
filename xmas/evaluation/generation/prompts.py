"""Questions as tokens, put together by the image they show.

What several prompts share is known here: the tokens in front of every image, and the image itself.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int
from torch import Tensor

from xmas.data.images import open_image
from xmas.evaluation.protocol import Question
from xmas.models.chat.labels import Encoder
from xmas.models.chat.layout import FEATURE
from xmas.models.vlm import LoadedModel

Image = Path | bytes
Pictures = dict[str, Tensor]
_AHEAD = 32  # images decoded before they are asked for


class GenerationError(ValueError):
    """A question could not be answered; the message names it. Answers before it are kept."""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A question, ready for a model. `opening` counts the tokens up to the end of the image."""

    position: int  # among all questions
    name: str  # for messages
    ids: Int[np.ndarray, " tokens"]  # the image's among them
    before: int  # tokens in front of the image, -1 without one
    opening: int


@dataclasses.dataclass(frozen=True)
class Group:
    """The prompts that show one image, or one without an image."""

    image: Image | None
    prompts: tuple[Prompt, ...]


def prompts_of(
    parts: LoadedModel,
    encoder: Encoder,
    questions: Sequence[Question],
    *,
    image_order: Iterable[int],
    label: str,
) -> list[Group]:
    """All questions, `questions[i]` with the image of `questions[image_order[i]]`.

    Groups come in order of their longest prompt, the longest first: too large a batch then fails at
    once, and what runs together has few pads. Raises GenerationError: an image is unreadable.
    """
    together: dict[object, list[Prompt]] = {}
    images: dict[object, Image | None] = {}
    for position, (question, shown) in enumerate(zip(questions, image_order, strict=True)):
        image = questions[shown].image
        name = f"{label}: question {position + 1} (question_id {question.question_id!r})"
        with blaming(name):
            prompt = _prompt(parts, encoder, question.prompt, image, position, name)
        which = ("without", position) if image is None else ("with", image)
        together.setdefault(which, []).append(prompt)
        images[which] = image
    groups = [
        Group(images[which], tuple(sorted(prompts, key=_length)))
        for which, prompts in together.items()
    ]
    return sorted(groups, key=lambda group: _length(group.prompts[0]))


def _length(prompt: Prompt) -> tuple[int, int]:
    return -len(prompt.ids), prompt.position


def _prompt(
    parts: LoadedModel, encoder: Encoder, text: str, image: Image | None, position: int, name: str
) -> Prompt:
    shown = None if image is None else parts.image_tokens(image)
    tokens = encoder.prompt(text, image=shown)
    ids, before = tokens.ids.astype(np.int64), tokens.image_at
    if shown is None:
        return Prompt(position, name, ids, before=-1, opening=0)
    expanded = np.where(shown == FEATURE, parts.model.config.image_token_id, shown)
    ids = np.insert(ids, before, expanded)
    return Prompt(position, name, ids, before=before, opening=before + len(expanded))


def head_of(groups: Iterable[Group]) -> Int[np.ndarray, " head"]:
    """The tokens with which every prompt begins, in front of any image: the system prompt."""
    fronts = [
        prompt.ids[: prompt.before if group.image is not None else -1]
        for group in groups
        for prompt in group.prompts
    ]
    shortest = min(map(len, fronts), default=0)
    if shortest == 0:
        return np.zeros(0, dtype=np.int64)
    alike = np.all([front[:shortest] == fronts[0][:shortest] for front in fronts], axis=0)
    return fronts[0][: shortest if alike.all() else int(np.argmin(alike))]


class blaming:  # noqa: N801  # a context manager, read as a word
    """Turns whatever is raised inside into a GenerationError that names the question."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, GenerationError):
            raise GenerationError(f"{self.name} cannot be answered: {error}") from error


def with_pictures(
    groups: Iterable[Group], pictures: Callable[[Image], Pictures], workers: int
) -> Iterator[tuple[Group, Pictures]]:
    """Groups with their pictures, which `workers` threads decode ahead; 0: as they are needed."""

    def load(group: Group) -> Pictures:
        with blaming(group.prompts[0].name):
            return {} if group.image is None else pictures(group.image)

    if workers == 0:
        yield from ((group, load(group)) for group in groups)
        return
    with ThreadPoolExecutor(workers) as threads:
        coming: list[tuple[Group, Future[Pictures]]] = []
        for group in groups:
            coming.append((group, threads.submit(load, group)))
            if len(coming) > _AHEAD:
                first, found = coming.pop(0)
                yield first, found.result()
        yield from ((group, found.result()) for group, found in coming)


def decoded(parts: LoadedModel) -> Callable[[Image], Pictures]:
    """Reads a picture as the model's processor wants it."""
    return lambda image: parts.processor.pictures([open_image(image)])
