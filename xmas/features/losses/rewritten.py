"""Conversations of a pool rewritten for a loss: who asks, who answers, what is left out."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Self

from xmas.data.rows import Rows
from xmas.data.turns import ASSISTANT, SYSTEM, USER, Turn
from xmas.models.chat.tokens import Tokenised

REWRITINGS = ("question_from_image", "question_from_answer", "answer_from_image")
ANSWER = "{answer}"  # in `ask`, where the answer goes


def question_rounds(turns: Sequence[Turn], ask: str) -> list[Turn]:
    """Every round with the question as what the model says, asked for by `ask`.

    A round's images open it. Text that is the same in all rounds, as `ask` without `{answer}`,
    asks for a question from the images and the questions before; with it, also from the answer.

    >>> from xmas.data.turns import turns_of_rounds
    >>> from xmas.features.losses.rewritten import question_rounds
    >>> turns = turns_of_rounds([("Colour?", "red"), ("Shape?", "a disc")], image=True)
    >>> [turn.text for turn in question_rounds(turns, "What has the answer {answer}?")]
    ['What has the answer red?', 'Colour?', 'What has the answer a disc?', 'Shape?']
    """
    system = [turn for turn in turns if turn.role == SYSTEM]
    spoken = [turn for turn in turns if turn.role != SYSTEM]
    rewritten = []
    for question, answer in zip(spoken[0::2], spoken[1::2], strict=True):
        images = (0,) * (len(question.images) + len(answer.images))
        rewritten.append(Turn(USER, ask.replace(ANSWER, answer.text), images))
        rewritten.append(Turn(ASSISTANT, question.text))
    return [*system, *rewritten]


def answers_alone(turns: Sequence[Turn]) -> list[Turn]:
    """The images without a question, then all answers as one, joined by spaces: PreSel's."""
    answers = [turn.text for turn in turns if turn.role == ASSISTANT]
    images = (0,) * sum(len(turn.images) for turn in turns)
    return [Turn(USER, "", images), Turn(ASSISTANT, " ".join(answers))]


@dataclasses.dataclass(frozen=True)
class Rewritten(Tokenised):
    """`Tokenised`, of conversations that are rewritten first.

    Args:
        how: `question_from_image` or `question_from_answer`: `question_rounds`, labelled where the
            questions are; `answer_from_image`: `answers_alone`.
        ask: the model's request for a question; `{answer}` is the answer's place in
            `question_from_answer`.

    Raises ValueError: no such rewriting, or `ask` does not fit it.
    """

    kind: ClassVar[str] = "rewritten_tokens"

    how: str = "question_from_image"
    ask: str = ""

    def __post_init__(self) -> None:
        if self.how not in REWRITINGS:
            raise ValueError(f"rewriting {self.how!r}: expected one of {', '.join(REWRITINGS)}")
        if (ANSWER in self.ask) != (self.how == "question_from_answer"):
            raise ValueError(
                f"{self.how} asks {self.ask!r}: {ANSWER} is the place of the answer in "
                "question_from_answer, and in no other"
            )

    @classmethod
    def of(cls, tokens: Tokenised, *, how: str, ask: str = "") -> Self:
        """The rewriting of the conversations that `tokens` has as they are."""
        names = [field.name for field in dataclasses.fields(Tokenised)]
        return cls(**{name: getattr(tokens, name) for name in names}, how=how, ask=ask)

    def turns(self, examples: Rows, row: int) -> list[Turn]:
        turns = examples.turns(row)
        if self.how == "answer_from_image":
            return answers_alone(turns)
        return question_rounds(turns, self.ask)
