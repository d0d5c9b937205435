"""Conversation templates: how rounds become text, and which characters are answers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)  # LLaVA `llava/conversation.py`, vicuna_v1
LLAVA_PAD = "<unk>"  # LLaVA's pads are Vicuna's unknown token, which a text may contain


@dataclasses.dataclass(frozen=True)
class Template:
    """Rounds of question and answer as one text; the defaults are LLaVA's vicuna_v1.

    `system + " "`, then a round: `USER: question ASSISTANT: answer</s>`, no space before the next
    USER. Without a system prompt the text starts at the first USER. The image always opens its
    turn, a question or an answer, as in LLaVA's `preprocess_multimodal`. An empty turn is its role
    alone (`USER:`, `ASSISTANT:`), without `</s>`. With `<|endoftext|>` for `</s>` and empty turns
    like any other it is TinyLLaVA's "phi", which the XMAS release trains its proxy with.

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

    def render(
        self,
        rounds: Sequence[tuple[str, str | None]],
        *,
        image: bool,
        image_round: int = 0,
        in_answer: bool = False,
    ) -> tuple[list[str], list[tuple[int, int, int]]]:
        """The text in chunks, and the positions of its answers.

        With an image there are two chunks and the image is between them; without one there is one
        chunk. An answer is (chunk, first character, end), half-open, `</s>` included; one that the
        image is in has a position in both chunks.

        Args:
            rounds: (question, answer); None: the model's answer follows.
            image_round: number of the round that has the image.
            in_answer: it is in the answer of this round, not in the question.
        """
        chunks = [self.system + self.behind_system if self.system else ""]
        answers = []
        for number, (question, answer) in enumerate(rounds):
            pictured = image and number == image_round
            if pictured and not in_answer:
                chunks[-1] += self.user
                chunks.append(self.behind_image + question if question else "")
                chunks[-1] += self.behind_question
            elif question or self.lone_user is None:
                chunks[-1] += self.user + self.behind_user + question + self.behind_question
            else:
                chunks[-1] += self.lone_user
            chunks[-1] += self.assistant
            pictured = pictured and in_answer
            if answer is not None and (answer or pictured or self.lone_user is None):
                # A space goes with an answer: a prompt ends in "ASSISTANT:".
                start = len(chunks[-1])
                chunks[-1] += self.behind_assistant
                if pictured:
                    answers.append((len(chunks) - 1, start, len(chunks[-1])))
                    chunks.append(self.behind_image if answer else "")
                    start = 0
                chunks[-1] += answer + self.eos
                answers.append((len(chunks) - 1, start, len(chunks[-1])))
                chunks[-1] += self.behind_answer
        return chunks, self._answers_to_llava(chunks) if self.strict_parity else answers

    def _answers_to_llava(self, chunks: list[str]) -> list[tuple[int, int, int]]:
        """The positions of the answers by LLaVA's arithmetic, which knows the text alone.

        A round ends at `</s>` and has its answer after the first mark. There is no answer at all
        where the lengths of rounds do not add up to that of the text without pads: where a round
        has no such mark or several, as the empty one after an answer that ends in `</s>`, where the
        last answer is empty, and where the text has a pad.

        Source: LLaVA `llava/train/train.py`, preprocess_v1.
        """
        image = "<image>"
        text = image.join(chunks)
        between = self.behind_question + self.assistant + self.behind_assistant
        *turns, rest = text.split(self.eos)
        if rest or LLAVA_PAD in text or any(turn.count(between) != 1 for turn in turns):
            return []
        cut, behind = len(chunks[0]), len(chunks[0]) + len(image)
        answers, end = [], 0
        for turn in turns:
            start = end + turn.index(between) + len(self.behind_question + self.assistant)
            end += len(turn) + len(self.eos)
            if start < cut:
                answers.append((0, start, min(end, cut)))
            if end > cut:
                answers.append((1, max(start - behind, 0), end - behind))
        return answers

    def prompt(self, question: str, *, image: bool) -> list[str]:
        """The chunks of a single question, up to where the model's answer starts."""
        return self.render([(question, None)], image=image)[0]


@dataclasses.dataclass(frozen=True)
class Plain:
    """LLaVA's captions template: the image, the caption, a newline; no roles.

    A conversation without an image is rendered with `chat`, so that a randomly initialised language
    model can learn to answer while it learns names.
    Source: LLaVA `llava/train/train.py`, preprocess_plain.
    """

    eos: str = "\n"
    chat: Template = dataclasses.field(default_factory=Template)

    def render(
        self,
        rounds: Sequence[tuple[str, str]],
        *,
        image: bool,
        image_round: int = 0,
        in_answer: bool = False,
    ) -> tuple[list[str], list[tuple[int, int, int]]]:
        """As `Template.render`; with an image, which always comes first, the answers alone."""
        if not image:
            return self.chat.render(rounds, image=False)
        text = "".join(answer + self.eos for _, answer in rounds)
        return ["", text], [(1, 0, len(text))]
