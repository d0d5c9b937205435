"""A chat template bound to its tokenizer: text around images, and where the answers are.

Answers are what the template's `{% generation %}` marks say, or what follows the prompt that the
template itself writes for them. Either way what precedes an answer in a fit has to be what the
model is given when it answers.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from xmas.data.turns import ASSISTANT, IMAGE_PLACEHOLDER, USER, Turn, turns_of_rounds
from xmas.models.chat.layout import NO_TEXT, Around
from xmas.models.chat.messages import AS_TEXT, message_of, quoted
from xmas.models.chat.whole_text import TokenisedText, tokenise_whole

REMEDY = "name an explicit template instead: template=, or proxy.template= and target.template="
SPARE = range(0xE000, 0xF8FF)  # letters for private use: one that a conversation does not have
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_QUESTION, _ANSWER = "quaestio", "responsum"  # of the conversations that a template is tried with


class TokenizerTemplate:
    """A chat template with the tokenizer that it was written for; see `OwnTemplate`."""

    def __init__(
        self,
        tokenizer: Any,
        text: str,
        options: Mapping[str, Any],
        literal: str | None,
        around: Around = NO_TEXT,
    ) -> None:
        self.tokenizer = tokenizer
        self.literal = literal
        self.around = around
        self.options = dict(options)
        self.text = text
        self.as_text = not self._takes_parts()  # of a language model, without pictures
        if self.as_text:
            self.text = AS_TEXT.replace("IMAGE", quoted(literal or IMAGE_PLACEHOLDER)) + text
        self.marked = bool(_MARKS.search(text))
        self.before, self.anchor, self.after = self._placeholder(literal)
        self._check_answers()

    def jinja(self, image: str) -> str:
        """The text for other software, its options set and the image token called `image`."""
        settings = "".join(
            f"{{%- set {name} = {quoted(value)} -%}}" for name, value in self.options.items()
        )
        # A model whose image token has no name gets one, which may not be the template's.
        text = self.text if self.literal else self.text.replace(self.anchor, image)
        return settings + text

    @cached_property
    def end(self) -> int:
        """The token that ends an answer."""
        _, turn = self._turns_of_one_answer()
        return self.tokenizer.convert_tokens_to_ids(self._ends(turn)[-1][0])

    def render(self, turns: Sequence[Turn]) -> tuple[list[str], list[tuple[int, int, int]]]:
        """As `Template.render`, with the prompt that follows a last question; images are cut out
        with the marks that the template puts at them.

        Raises ValueError: the template has no place for an image or refuses the turns, or what
        precedes an answer is not what the model is given when it answers.
        """
        spare = self._spare(turns)
        messages = [_message(turn, self.anchor, spare) for turn in turns]
        text, marks = self._written(messages, prompt=bool(turns) and turns[-1].role == USER)
        answers = []
        for number, turn in enumerate(turns):
            if turn.role == ASSISTANT:
                start, stop = self._answer(messages, number, text)
                spans = [span for span in marks if start <= span[0] < stop]
                answers += self._ended(spans, text, stop) if self.marked else [(start, stop)]
        return self._cut(text, answers, spare, sum(len(turn.images) for turn in turns))

    def prompt(self, question: str, *, image: bool) -> list[str]:
        """The chunks of a single question, up to where the model's answer starts."""
        turns = turns_of_rounds([(question, None)], image=image)
        spare = self._spare(turns)
        text, _ = self._written([_message(turn, self.anchor, spare) for turn in turns], prompt=True)
        return self._cut(text, [], spare, int(image))[0]

    def tokenised(
        self, chunks: Sequence[str], images: Sequence[Int[np.ndarray, " _"]]
    ) -> list[TokenisedText]:
        """Ids and character offsets of every chunk; `images` are the tokens between them.

        Marks that the template writes around an image are among its tokens in most layouts; where
        they are not, they are text.
        """
        names = {name for name in (self.literal, self.anchor) if name is not None}
        texts = tokenise_whole(self.tokenizer, chunks, self.literal, sorted(names))
        before, after = self._marks
        for number, image in enumerate(images):
            if before != image[: len(before)].tolist():
                ids, offsets = texts[number]
                texts[number] = ids + before, offsets + [(0, 0)] * len(before)
            if after and after != image[-len(after) :].tolist():
                ids, offsets = texts[number + 1]
                texts[number + 1] = after + ids, [(0, 0)] * len(after) + offsets
        return texts

    @cached_property
    def _marks(self) -> tuple[list[int], list[int]]:
        """The ids of what the template writes directly before and after an image token."""
        before, after = (
            self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
            for text in (self.before, self.after)
        )
        return before, after

    def _answer(self, messages: list[dict[str, Any]], number: int, text: str) -> tuple[int, int]:
        """Where the answer of a message is in the whole text, its end mark included."""
        prompt, _ = self._written(messages[:number], prompt=True)
        so_far, _ = self._written(messages[: number + 1])
        for part in (prompt, so_far):
            if not text.startswith(part):
                raise ValueError(
                    f"the chat template writes the conversation up to turn {number + 1} otherwise "
                    "where more follows or the model answers, as those do that drop the thinking "
                    f"of earlier turns: a fit would not train what is asked; {REMEDY}"
                )
        ends = self._ends(so_far[len(prompt) :])
        if not ends or so_far[len(prompt) + ends[-1][1] :].strip():
            raise ValueError(
                "the chat template ends an answer without an end token: the fitted model "
                f"would not learn to stop; {REMEDY}"
            )
        return len(prompt), len(prompt) + ends[-1][1]

    def _ended(self, spans: list[tuple[int, int]], text: str, stop: int) -> list[tuple[int, int]]:
        """The template's marks, the last of a turn with the end mark that follows it."""
        if spans and spans[-1][1] < stop:
            *spans, (start, last) = spans
            ends = self._ends(text[last:stop])
            if not ends or text[last:stop].strip() != ends[0][0]:
                raise ValueError(
                    "text follows the answer that the chat template marks with generation: "
                    f"{text[last:stop]!r}; {REMEDY}"
                )
            spans.append((start, stop))
        return spans

    def _cut(
        self, text: str, answers: list[tuple[int, int]], spare: str, images: int
    ) -> tuple[list[str], list[tuple[int, int, int]]]:
        """Cut a text at its images, and the positions of its answers with it."""
        placeholder = self.before + self.anchor + self.after
        chunks = text.split(placeholder) if images else [text]
        if len(chunks) != images + 1:
            raise ValueError(
                f"the chat template writes {len(chunks) - 1} of {images} images of the turns; "
                f"{REMEDY}"
            )
        spans, first = [], 0
        for number, chunk in enumerate(chunks):
            end, moved = first + len(chunk), len(self.around[1]) if number else 0
            for start, stop in answers:
                if start < end and stop > first:
                    span = max(start, first) - first + moved, min(stop, end) - first + moved
                    spans.append((number, *span))
            first = end + len(placeholder)
        chunks = [chunk.replace(spare * len(self.anchor), self.anchor) for chunk in chunks]
        chunks[:-1] = [chunk + self.around[0] for chunk in chunks[:-1]]
        chunks[1:] = [self.around[1] + chunk for chunk in chunks[1:]]
        return chunks, spans

    def _written(
        self, messages: list[dict[str, Any]], *, prompt: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text of messages and the spans that the template marks as generated."""
        import jinja2
        from transformers.utils.chat_template_utils import render_jinja_template

        variables = {**self.tokenizer.special_tokens_map, **self.options}
        try:
            texts, spans = render_jinja_template(
                [messages],
                chat_template=self.text,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=bool(_MARKS.search(self.text)),
                **variables,
            )
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template refuses the conversation: {error}") from error
        marks: Any = spans[0] if spans else []  # annotated as str by transformers
        return texts[0], list(marks)

    def _takes_parts(self) -> bool:
        """Whether contents may be lists of parts, as processors pass them."""
        question = Turn("user", _QUESTION)
        try:
            text, _ = self._written([_message(question)], prompt=True)
        except (TypeError, ValueError):
            return False  # it adds text to a content; with text alone it is tried again
        return question.text in text and "'type'" not in text

    def _placeholder(self, literal: str | None) -> tuple[str, str, str]:
        """What the template writes for an image: its marks, and between them what stands for it."""
        alone, _ = self._written([_message(Turn("user", _QUESTION))])
        shown, _ = self._written([_message(Turn("user", _QUESTION, (0,)))])
        start = len(_common(alone, shown))
        stop = len(shown) - len(_common(alone[start:][::-1], shown[start:][::-1]))
        inserted = shown[start:stop]
        if literal is not None and literal in shown:
            tokens = [token for token, _ in self._ends(inserted)] or [literal]
            whole = shown[shown.index(tokens[0]) :]
            whole = whole[: whole.rindex(tokens[-1]) + len(tokens[-1])]
            before, _, after = whole.partition(literal)
            return before, literal, after
        tokens = [token for token, _ in self._ends(inserted)]
        if len(tokens) > 1:
            raise ValueError(
                f"the chat template writes {inserted!r} for an image, and not {literal}; {REMEDY}"
            )
        anchor = tokens[0] if tokens else inserted.strip()
        if not anchor:
            raise ValueError(f"the chat template writes nothing for an image; {REMEDY}")
        return "", anchor, ""

    def _turns_of_one_answer(self) -> tuple[str, str]:
        """A conversation of one answer, and what the template writes after its prompt."""
        turns = turns_of_rounds([(_QUESTION, _ANSWER)], image=False)
        messages = [_message(turn) for turn in turns]
        text, _ = self._written(messages)
        start, stop = self._answer(messages, 1, text)
        return text, text[start:stop]

    def _check_answers(self) -> None:
        """Raise ValueError where a prompt does not end where an answer starts."""
        _, answer = self._turns_of_one_answer()
        if answer.partition(_ANSWER)[0].strip():
            raise ValueError(
                f"the chat template does not end a prompt where an answer starts, but before "
                f"{answer.partition(_ANSWER)[0]!r}: it ignores add_generation_prompt; {REMEDY}"
            )

    @cached_property
    def _tokens(self) -> re.Pattern[str]:
        """The tokenizer's added tokens, but for those of white space, which texts have as well."""
        tokens = [str(token) for token in self.tokenizer.get_added_vocab()]
        tokens += [str(token) for token in self.tokenizer.all_special_tokens]
        names = sorted({token for token in tokens if token.strip()}, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or "(?!)")

    def _ends(self, text: str) -> list[tuple[str, int]]:
        """The added tokens in a text, each with the position after it."""
        return [(match[0], match.end()) for match in self._tokens.finditer(text)]

    def _spare(self, turns: Sequence[Turn]) -> str:
        """A letter that no turn has, to write image tokens with that are text."""
        used = set(itertools.chain.from_iterable(turn.text for turn in turns))
        return next(letter for letter in map(chr, SPARE) if letter not in used)


def _message(turn: Turn, anchor: str = "", spare: str = "") -> dict[str, Any]:
    """A turn for a chat template; an image token that its text names is written with `spare`."""
    message = message_of(turn)
    for part in message["content"]:
        if anchor and "text" in part:
            part["text"] = part["text"].replace(anchor, spare * len(anchor))
    return message


def _common(one: str, other: str) -> str:
    """The letters that two texts begin with."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(letter for letter, _ in pairs)
