"""Conversation templates: how rounds become text, and which characters are answers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from xmas.data.turns import ASSISTANT, IMAGE_PLACEHOLDER, SYSTEM, USER, Turn, turns_of_rounds

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)  # LLaVA `llava/conversation.py`, vicuna_v1
LLAVA_PAD = "<unk>"  # LLaVA's pads are Vicuna's unknown token, which a text may contain


@dataclasses.dataclass(frozen=True)
class Template:
    """Rounds of question and answer as one text; the defaults are LLaVA's vicuna_v1.

    `system + " "`, then a round: `USER: question ASSISTANT: answer</s>`, no space before the next
    USER. Without a system prompt the text starts at the first USER; a system turn of a conversation
    takes the prompt's place. A single image always opens its turn, a question or an answer, as in
    LLaVA's `preprocess_multimodal`; of several, each is where its turn has it. An empty turn is its
    role alone (`USER:`, `ASSISTANT:`), without `</s>`. With `<|endoftext|>` for `</s>` and empty
    turns like any other it is TinyLLaVA's "phi", which the XMAS release trains its proxy with.

    LLaVA finds the answers by the words around them, and counts pads by their token. It trains on
    nothing of a conversation whose texts contain these words or the pad ("tokenization mismatch").
    Here they are answers like any other, unless `strict_parity` asks for the same loss.

    Source: LLaVA `llava/conversation.py` (vicuna_v1); `llava/train/train.py`, preprocess_v1.
    """

    system: str = VICUNA_SYSTEM
    behind_system: str = " "
    user: str = "USER: "
    behind_user: str = ""  # before a question without an image
    behind_image: str = "\n"
    behind_question: str = " "
    assistant: str = "ASSISTANT:"
    behind_assistant: str = " "  # part of the answer: its first token may contain it
    eos: str = "</s>"  # the answer's end, labelled as part of it
    behind_answer: str = ""
    lone_user: str | None = "USER:"  # all of an empty question; null: empty turns like any other
    strict_parity: bool = False  # no answers where LLaVA's own arithmetic loses them

    def corrections(self) -> dict[str, Any]:
        """Other rules than before, in two settings: what strict parity drops; empty answers have an
        end mark, which is labelled, where empty turns are like any other.
        """
        strict = {"strict_rule": 2} if self.strict_parity else {}
        return strict | ({"empty_answers": "ended"} if self.lone_user is None else {})

    def render(self, turns: Sequence[Turn]) -> tuple[list[str], list[tuple[int, int, int]]]:
        """The text in chunks, with an image between each and the next, and where its answers are.

        An answer is (chunk, first character, end), half-open, `</s>` included; one that an image is
        in has a position in several chunks. After a last question the model's answer follows.
        """
        system = self.system
        if turns and turns[0].role == SYSTEM:
            system, turns = turns[0].text, turns[1:]
        chunks = [system + self.behind_system if system else ""]
        answers: list[tuple[int, int, int]] = []
        for turn in turns:
            empty = not (turn.text or turn.images or self.lone_user is None)
            first, *later = self._pieces(turn)
            if turn.role == USER:
                before = self.behind_user if first or not turn.images else ""
                opening = self.lone_user or "" if empty else self.user + before + first
                chunks[-1] += opening
                chunks += later
                chunks[-1] += self.assistant if empty else self.behind_question + self.assistant
            elif not empty:
                # A space goes with an answer: a prompt ends in "ASSISTANT:".
                start = len(chunks[-1])
                chunks[-1] += self.behind_assistant + first
                chunks += later
                chunks[-1] += self.eos
                for number in range(len(chunks) - len(later) - 1, len(chunks)):
                    answers.append((number, start, len(chunks[number])))
                    start = 0
                chunks[-1] += self.behind_answer
        return chunks, self._answers_to_llava(chunks) if self.strict_parity else answers

    def _pieces(self, turn: Turn) -> list[str]:
        """The text of a turn before, between and after its images."""
        pieces = turn.pieces()
        if turn.opens and turn.text:
            pieces[-1] = self.behind_image + pieces[-1]
        return pieces

    def _answers_to_llava(self, chunks: list[str]) -> list[tuple[int, int, int]]:
        """The positions of the answers by LLaVA's arithmetic, which knows the text alone.

        A round ends at `</s>` and has its answer after the first mark. There is no answer at all
        where the lengths of rounds do not add up to that of the text without pads: where a round
        has no such mark or several, as the empty one after an answer that ends in `</s>`, where the
        last answer is empty, and where the text has a pad.

        Source: LLaVA `llava/train/train.py`, preprocess_v1.
        """
        text = IMAGE_PLACEHOLDER.join(chunks)
        between = self.behind_question + self.assistant + self.behind_assistant
        *turns, rest = text.split(self.eos)
        if rest or LLAVA_PAD in text or any(turn.count(between) != 1 for turn in turns):
            return []
        answers, end = [], 0
        for turn in turns:
            start = end + turn.index(between) + len(self.behind_question + self.assistant)
            end += len(turn) + len(self.eos)
            first = 0  # of the chunk, in `text`
            for number, chunk in enumerate(chunks):
                if start < first + len(chunk) and end > first:
                    answers.append((number, max(start - first, 0), min(end - first, len(chunk))))
                first += len(chunk) + len(IMAGE_PLACEHOLDER)
        return answers

    def prompt(self, question: str, *, image: bool) -> list[str]:
        """The chunks of a single question, up to where the model's answer starts."""
        return self.render(turns_of_rounds([(question, None)], image=image))[0]


@dataclasses.dataclass(frozen=True)
class Plain:
    """LLaVA's captions template: the image, the caption, a newline; no roles.

    A conversation without an image is rendered with `chat`, so that a randomly initialised language
    model can learn to answer while it learns names.
    Source: LLaVA `llava/train/train.py`, preprocess_plain.
    """

    eos: str = "\n"
    chat: Template = dataclasses.field(default_factory=Template)

    def render(self, turns: Sequence[Turn]) -> tuple[list[str], list[tuple[int, int, int]]]:
        """As `Template.render`; with images, which always come first, the answers alone."""
        images = sum(len(turn.images) for turn in turns)
        if not images:
            return self.chat.render(turns)
        text = "".join(turn.text + self.eos for turn in turns if turn.role == ASSISTANT)
        return [*[""] * images, text], [(images, 0, len(text))]
