"""Turns of a conversation: who speaks, what, and where in the text the images of the row are."""

import dataclasses
import itertools
from collections.abc import Sequence

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
IMAGE_PLACEHOLDER = "<image>"


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn; the images of a row belong to its turns in order.

    >>> from xmas.data.turns import Turn, turn_of
    >>> turn_of("user", "From <image> to <image>?", single=False)
    Turn(role='user', text='From  to ?', images=(5, 9))

    Args:
        role: `SYSTEM`, `USER` or `ASSISTANT`.
        text: without placeholders.
        images: where in `text` an image is, in characters, ascending.
    """

    role: str
    text: str
    images: tuple[int, ...] = ()

    @property
    def opens(self) -> bool:
        """Whether images come first, one directly after the other, and none later."""
        return bool(self.images) and not any(self.images)

    def pieces(self) -> list[str]:
        """The text before, between and after the images: one piece more than there are images."""
        cuts = [0, *self.images, len(self.text)]
        return [self.text[start:stop] for start, stop in itertools.pairwise(cuts)]

    def written(self, opening: str = "\n") -> str:
        """The text with a placeholder for every image; `opening` follows images that come first."""
        pieces = self.pieces()
        if self.opens:
            pieces[-1] = opening + pieces[-1]
        return IMAGE_PLACEHOLDER.join(pieces)


def turn_of(role: str, text: str, *, single: bool) -> Turn:
    """A turn whose text has placeholders.

    Args:
        single: the row has one image. It opens its turn, wherever its placeholder is, as in LLaVA's
            loader, which strips the text around it (`preprocess_multimodal` in LLaVA's `train.py`).
            Several images stay where their placeholders are; a line break that follows those that
            open the turn is left to the template.
    """
    pieces = text.split(IMAGE_PLACEHOLDER)
    if len(pieces) == 1:
        return Turn(role, text)
    if single:
        return Turn(role, "".join(pieces).strip(), (0,) * (len(pieces) - 1))
    *lengths, _ = itertools.accumulate(map(len, pieces))
    turn = Turn(role, "".join(pieces), tuple(lengths))
    return dataclasses.replace(turn, text=turn.text.removeprefix("\n")) if turn.opens else turn


def turns_of_rounds(
    rounds: Sequence[tuple[str, str | None]],
    *,
    image: bool,
    image_round: int = 0,
    in_answer: bool = False,
) -> list[Turn]:
    """The turns of (question, answer) rounds with at most one image.

    Args:
        rounds: an answer that is None is left out: the model's follows.
        image: whether there is one; it opens a turn.
        image_round: number of the round that has it.
        in_answer: it is in the answer of this round, not in the question.
    """
    turns = []
    for number, texts in enumerate(rounds):
        for role, text in zip((USER, ASSISTANT), texts, strict=True):
            shown = image and number == image_round and in_answer == (role == ASSISTANT)
            if text is not None:
                turns.append(Turn(role, text, (0,) if shown else ()))
    return turns


def rounds_of(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    """(question, answer) of every round, without a system turn."""
    texts = [turn.text for turn in turns if turn.role != SYSTEM]
    return list(zip(texts[0::2], texts[1::2], strict=True))
