"""A conversation as token ids, labels and the position of its image.

Text is tokenised chunk by chunk around the image, as LLaVA does (`tokenizer_image_token`): with the
placeholder inline, Metaspace tokenisers lose the space marker after the image. Labels come from
character offsets, so no template needs to know how its roles are tokenised.
"""

import dataclasses
import itertools
import re
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from xmas.models.chat.template import Plain, Template

IGNORED = -100  # the label that torch's cross-entropy leaves out
NO_IMAGE: Int[np.ndarray, " 0"] = np.zeros(0, dtype=np.int32)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """One conversation as text tokens; its image's tokens are separate.

    `labelled` marks the answers' tokens. `image_at` is the position that the image's tokens take,
    -1 without an image.
    """

    ids: Int[np.ndarray, " text"]
    labelled: Bool[np.ndarray, " text"]
    image_at: int
    image: Int[np.ndarray, " image"] = dataclasses.field(default_factory=lambda: NO_IMAGE)

    def __len__(self) -> int:
        return len(self.ids) + len(self.image)


class ImageCutError(ValueError):
    """`max_length` ends inside or before the image of a conversation."""


class Encoder:
    """Conversations to `Tokens` for one tokenizer and template.

    `literal` is the text that the tokenizer would read as the image token; in a conversation it
    stays text.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: Template | Plain,
        *,
        literal: str | None = None,
        max_length: int = 2048,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.literal = literal
        self.max_length = max_length

    def conversation(
        self,
        rounds: list[tuple[str, str]],
        *,
        image: Int[np.ndarray, " image"] | None,
        image_round: int = 0,
        in_answer: bool = False,
    ) -> Tokens:
        """A whole conversation, cut at `max_length` with the image's tokens counted.

        Nothing is labelled where all answers are empty or after the cut.

        Args:
            image: the tokens of its image, from a `Layout`.
            image_round: number of the round that has the image.
            in_answer: it is in the answer of this round, not in the question.

        Raises ImageCutError: a ValueError: `max_length` would cut the image.
        """
        chunks, answers = self.template.render(
            rounds, image=image is not None, image_round=image_round, in_answer=in_answer
        )
        ids, labelled, image_at = [], [], -1
        for number, chunk in enumerate(chunks):
            if number == 1:
                image_at = len(ids)
            chunk_ids, offsets = self._tokenise(chunk, first=number == 0)
            spans = [(start, stop) for which, start, stop in answers if which == number]
            ids += chunk_ids
            labelled += [any(a < stop and start < b for start, stop in spans) for a, b in offsets]
        image_tokens = NO_IMAGE if image is None else image
        room = self.max_length - len(image_tokens)
        if image_at > room:
            raise ImageCutError(
                f"max_length {self.max_length} ends inside the image, which needs "
                f"{image_at + len(image_tokens)} tokens with the text before it; raise max_length"
            )
        return Tokens(
            np.array(ids[:room], dtype=np.int32),
            np.array(labelled[:room], dtype=bool),
            image_at,
            image_tokens,
        )

    def prompt(self, question: str, *, image: Int[np.ndarray, " image"] | None) -> Tokens:
        """A question up to where the answer starts; nothing is labelled."""
        if isinstance(self.template, Plain):
            raise ValueError("the captions template has no questions; give a chat template")
        ids, image_at = [], -1
        for number, chunk in enumerate(self.template.prompt(question, image=image is not None)):
            if number == 1:
                image_at = len(ids)
            ids += self._tokenise(chunk, first=number == 0)[0]
        labelled = np.zeros(len(ids), dtype=bool)
        image_tokens = NO_IMAGE if image is None else image
        return Tokens(np.array(ids, dtype=np.int32), labelled, image_at, image_tokens)

    def _tokenise(self, chunk: str, *, first: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and character offsets of a chunk; the begin mark only on the first.

        A literal image token is cut after its first letter, so that no tokenizer recognises it.
        """
        cuts = [] if self.literal is None else _occurrences(self.literal, chunk)
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for start, stop in itertools.pairwise([0, *(cut + 1 for cut in cuts), len(chunk)]):
            part_ids, places = self._tokenise_part(chunk[start:stop], first=first and start == 0)
            ids += part_ids
            offsets += [(start + a, start + b) for a, b in places]
        return ids, offsets

    def _tokenise_part(self, part: str, *, first: bool) -> tuple[list[int], list[tuple[int, int]]]:
        if not part and not first:
            return [], []
        encoding = self.tokenizer(part, return_offsets_mapping=True)
        ids, offsets = list(encoding["input_ids"]), list(encoding["offset_mapping"])
        if not first and ids and ids[0] == self.tokenizer.bos_token_id:
            ids, offsets = ids[1:], offsets[1:]
        return ids, offsets


def _occurrences(literal: str, text: str) -> list[int]:
    return [match.start() for match in re.finditer(re.escape(literal), text)]
