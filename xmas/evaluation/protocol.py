"""What a benchmark is: questions for a model, and a rule that scores the answers.

A benchmark is a frozen dataclass over files in the official formats, so its identity is their
content. It never sees the model: answers come as the lines of LLaVA's answer files, whoever made
them, and are joined by the benchmark's own key, never by position.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from xmas.evaluation.outcomes import Outcomes
from xmas.store import Store

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


@dataclasses.dataclass(frozen=True)
class Question:
    """One question: what an answer line repeats, the exact prompt, and the picture."""

    question_id: str | int
    prompt: str  # what stands behind `<image>\n`
    image: Path | bytes | None  # a file, an encoded image, or none
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)  # more keys of the answer line


@dataclasses.dataclass(frozen=True)
class Scored:
    """What a rule gives: the headline number, how many items stand behind it, and the parts.

    `outcomes` are what intervals and comparisons are drawn from. Raises ValueError: they say
    another score.
    """

    score: float | None  # None: there is none, and `detail["invalid"]` says why
    num: int
    detail: dict[str, Any]
    outcomes: Outcomes | None = None

    def __post_init__(self) -> None:
        if self.outcomes is None:
            return
        said = self.outcomes.score()
        if self.score is None or not math.isclose(said, self.score, rel_tol=1e-9, abs_tol=1e-9):
            raise ValueError(f"outcomes say {said}, the rule says {self.score}")


@runtime_checkable
class Benchmark(Protocol):
    """The contract: a frozen dataclass whose files are `content()` fields."""

    @property
    def name(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def metric(self) -> str: ...

    @property
    def max_new_tokens(self) -> int: ...

    def asked(self, store: Store) -> list[Question]:
        """All questions, in the order of the official question file.

        Raises AnswerError: the number of questions is not the expected one.
        """
        ...

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        """The official score of LLaVA answer lines.

        Raises AnswerError: an answer is missing, doubled or foreign; the message names it.
        """
        ...


@runtime_checkable
class Judged(Protocol):
    """A benchmark that needs a judge, which is to be found out before hours of answering."""

    def check(self) -> None:
        """Raise OSError if there is none that can be asked; the message says what is missing."""
        ...

    def prompts(self, answers: list[dict[str, Any]], store: Store) -> dict[Any, str]:
        """What the judge is asked about every question; nothing is sent.

        Raises AnswerError: an answer, or what is known of its question, is missing, doubled or
        foreign.
        """
        ...


class AnswerError(ValueError):
    """Answers and questions do not fit together; the message names the first that does not."""


def join(
    expected: Iterable[Hashable],
    answers: Iterable[dict[str, Any]],
    key_of: Callable[[dict[str, Any]], Hashable],
    *,
    benchmark: str,
) -> dict[Hashable, str]:
    """The text of the one answer for every expected key.

    Raises AnswerError: a key is missing, stands twice, or was never asked.
    """
    wanted = dict.fromkeys(expected)
    found: dict[Hashable, str] = {}
    for number, line in enumerate(answers, start=1):
        name = key_of(line)
        if name not in wanted:
            raise AnswerError(f"{benchmark}: line {number} answers {name!r}, which was not asked")
        if name in found:
            raise AnswerError(f"{benchmark}: line {number} answers {name!r} a second time")
        found[name] = line["text"]
    missing = [name for name in wanted if name not in found]
    if missing:
        raise AnswerError(
            f"{benchmark}: {len(missing)} of {len(wanted)} questions have no answer, the first is "
            f"{missing[0]!r}; an incomplete file is not scored"
        )
    return found


def expect(count: int, expected: int | None, *, what: str, advice: str) -> None:
    """Raise AnswerError unless `count` is the official number (`None`: any number will do)."""
    if expected is not None and count != expected:
        raise AnswerError(f"{what}: {count} found, {expected} expected; {advice}")
