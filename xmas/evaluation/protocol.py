"""The protocol of benchmarks: questions for a model, and a rule that scores the answers.

A benchmark is a frozen dataclass over files in the official formats, so its identity is their
content. It never sees the model: answers come as the lines of LLaVA's answer files, from any
program, and are joined by the benchmark's own key, never by position.
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
    """One question: the exact prompt, the image, and what its answer line repeats."""

    question_id: str | int
    prompt: str  # the text that follows `<image>\n`
    image: Path | bytes | None  # a file, an encoded image, or None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)  # more keys of the answer line


@dataclasses.dataclass(frozen=True)
class Scored:
    """The result of a rule.

    Args:
        score: the headline number; None: the score is invalid, and `detail["invalid"]` says why.
        num: questions that the score is over.
        detail: scores of categories and the like.
        outcomes: what each question adds to the score, for intervals, comparisons and quick scores.

    Raises:
        ValueError: the outcomes give another score.
    """

    score: float | None
    num: int
    detail: dict[str, Any]
    outcomes: Outcomes | None = None

    def __post_init__(self) -> None:
        if self.outcomes is None:
            return
        score = self.outcomes.score()
        if self.score is None or not math.isclose(score, self.score, rel_tol=1e-9, abs_tol=1e-9):
            raise ValueError(f"the outcomes give a score of {score}, the rule gives {self.score}")

    def record(self, benchmark: "Benchmark") -> dict[str, Any]:
        """The content of `score.json`."""
        return {
            "benchmark": benchmark.name,
            "split": benchmark.split,
            "metric": benchmark.metric,
            "score": self.score,
            "num": self.num,
            "detail": self.detail,
        }


@runtime_checkable
class Benchmark(Protocol):
    """All that a benchmark needs: a frozen dataclass whose files are `content()` fields.

    What else is known of it is optional: `facts` on the class, see `xmas.evaluation.facts`, and a
    field `count` with the official number of questions.
    """

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
        """The official score of LLaVA answer lines: at least `question_id`, `prompt` and `text`.

        Raises AnswerError: an answer is missing, doubled or unknown; the message names it.
        """
        ...


@runtime_checkable
class Judged(Protocol):
    """A benchmark that needs a judge, which is checked before hours of generation."""

    def check(self) -> None:
        """Raise OSError if the judge cannot be asked; the message says what is missing."""
        ...

    def prompts(self, answers: list[dict[str, Any]], store: Store) -> dict[Any, str]:
        """The judge's prompt about every question, by question id; nothing is sent.

        Raises AnswerError: an answer, or the truth of its question, is missing, doubled or unknown.
        """
        ...


@runtime_checkable
class Referenced(Protocol):
    """A benchmark whose right answers are known, to learn from; see `ValidationRows`."""

    def references(self, store: Store) -> list[str | None]:
        """The answer to every question of `asked`, in its order; None: there is no single one.

        Raises AnswerError: the truth of a question is missing, doubled or unknown.
        """
        ...


class AnswerError(ValueError):
    """Answers, questions and truth do not match; the message names the first that does not."""


def decimals(score: float) -> int:
    """Decimals with which a score is shown: one, or three below 1, where one would show nothing."""
    return 3 if 0 < abs(score) < 1 else 1


def join(
    expected: Iterable[Hashable],
    answers: Iterable[dict[str, Any]],
    key_of: Callable[[dict[str, Any]], Hashable],
    *,
    benchmark: str,
) -> dict[Hashable, str]:
    """The text of the one answer for every expected key.

    Args:
        expected: the keys of all questions.
        answers: with `text`, in any order.
        key_of: the key of an answer line.
        benchmark: for messages.

    A number and its digits as a text are the same key: writers of JSON disagree about ids.

    Raises:
        AnswerError: a key has no answer, two answers, or was not asked.

    >>> join(["a", "b"], [{"id": "b", "text": "no"}, {"id": "a", "text": "yes"}],
    ...      lambda line: line["id"], benchmark="mine")
    {'b': 'no', 'a': 'yes'}
    """
    keys = dict.fromkeys(expected)
    of_text: dict[str, Hashable] = {}
    texts: dict[Hashable, str] = {}
    checked: set[Hashable] = set()
    for number, line in enumerate(answers, start=1):
        name = key_of(line)
        kind = tuple(map(type, name)) if isinstance(name, tuple) else type(name)
        if kind not in checked:
            check_key(name, f"{benchmark}: line {number}")
            checked.add(kind)
        if name not in keys and isinstance(name, int | str):
            of_text = of_text or {str(key): key for key in keys if isinstance(key, int | str)}
            name = of_text.get(str(name), name)
        if name not in keys:
            raise AnswerError(f"{benchmark}: line {number} answers {name!r}, which was not asked")
        if name in texts:
            raise AnswerError(f"{benchmark}: line {number} answers {name!r} a second time")
        texts[name] = line["text"]
    missing = [name for name in keys if name not in texts]
    if missing:
        raise AnswerError(
            f"{benchmark}: {len(missing)} of {len(keys)} questions have no answer, the first is "
            f"{missing[0]!r}; an incomplete file is not scored"
        )
    return texts


def check_key(key: Any, where: str) -> None:
    """Raise AnswerError unless an id is a number or a text, or a key made of such.

    `true` would be taken for 1, and a list for nothing that can be looked up. Its types alone
    decide, so that of many ids one of each type is checked.
    """
    parts = key if isinstance(key, tuple) else (key,)
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, int | float | str):
            raise AnswerError(f"{where}: {part!r} is no id, expected a number or a text")


def expect(count: int, expected: int | None, *, what: str, advice: str) -> None:
    """Raise AnswerError, with `advice` as the remedy, unless `count` is the official number.

    `expected` None accepts any number.
    """
    if expected is not None and count != expected:
        raise AnswerError(f"{what}: {count} found, {expected} expected; {advice}")
