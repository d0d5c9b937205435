"""A conversation as token ids, labels and the positions of its images.

Text is tokenised chunk by chunk around the images, as LLaVA does (`tokenizer_image_token`): with
the placeholder inline, Metaspace tokenisers lose the space marker after the image. Labels come from
character offsets, so no template needs to know how its roles are tokenised.
"""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped

from xmas.data.turns import Turn, turns_of_rounds
from xmas.models.chat.layout import FEATURE, NO_TEXT, Around
from xmas.models.chat.own_template import OwnTemplate
from xmas.models.chat.template import Plain, Template
from xmas.models.chat.tokenizer_template import TokenizerTemplate
from xmas.models.chat.whole_text import TokenisedText

IGNORED = -100  # the label that torch's cross-entropy leaves out
NO_IMAGE: Int[np.ndarray, " 0"] = np.zeros(0, dtype=np.int32)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """One conversation as text tokens; those of its images are separate.

    `labelled` marks the answers' tokens. `places` are the positions in `ids` that the tokens of its
    images take, ascending; `images` are these tokens, from a `Layout`.
    """

    ids: Int[np.ndarray, " text"]
    labelled: Bool[np.ndarray, " text"]
    places: tuple[int, ...] = ()
    images: tuple[Int[np.ndarray, " _"], ...] = ()

    def __len__(self) -> int:
        return len(self.ids) + sum(map(len, self.images))

    @property
    def image_at(self) -> int:
        """The position of the first image, -1 without one."""
        return self.places[0] if self.places else -1

    @property
    def image(self) -> Int[np.ndarray, " image"]:
        """The tokens of the first image."""
        return self.images[0] if self.images else NO_IMAGE

    @property
    def images_span(self) -> int:
        """Tokens from the start of the first image to the end of the last, with text between."""
        return self.places[-1] - self.places[0] + sum(map(len, self.images)) if self.places else 0

    def put_in(
        self, text: Shaped[np.ndarray, " text"], images: Sequence[Shaped[np.ndarray, " _"]]
    ) -> Shaped[np.ndarray, " length"]:
        """A value for every text token, with those of the images' tokens put where they belong."""
        if not self.places:
            return text
        ends = (*self.places, len(text))
        pieces: list[Shaped[np.ndarray, " _"]] = [text[: ends[0]]]
        for image, (start, end) in zip(images, itertools.pairwise(ends), strict=True):
            pieces += [image, text[start:end]]
        return np.concatenate(pieces)

    def whole(self, image_token: int) -> Int[np.ndarray, " length"]:
        """The ids with those of the images put in, `image_token` for every feature."""
        images = [np.where(image == FEATURE, image_token, image) for image in self.images]
        return self.put_in(self.ids.astype(np.int64), images)

    def whole_labels(self) -> Int[np.ndarray, " length"]:
        """The labels of `whole`: the answers' ids, else `IGNORED`."""
        labels = np.where(self.labelled, self.ids.astype(np.int64), IGNORED)
        return self.put_in(labels, [np.full(len(image), IGNORED) for image in self.images])


class ImageCutError(ValueError):
    """`max_length` ends inside or before an image of a conversation."""


class Encoder:
    """Conversations to `Tokens` for one tokenizer and template.

    `literal` is the text that the tokenizer would read as the image token; in a conversation it
    stays text. `around` is text that the model's processor writes before and after the tokens of
    an image, for the tokenizer's own template; another one has such text itself.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: Template | Plain | OwnTemplate,
        *,
        literal: str | None = None,
        around: Around = NO_TEXT,
        max_length: int = 2048,
    ) -> None:
        self.tokenizer = tokenizer
        self.template: TokenizerTemplate | Template | Plain = (
            template.of(tokenizer, literal, around)
            if isinstance(template, OwnTemplate)
            else template
        )
        self.literal = literal
        self.max_length = max_length

    @property
    def end(self) -> int:
        """The token at which an answer ends."""
        if isinstance(self.template, TokenizerTemplate):
            return self.template.end
        return self.tokenizer.eos_token_id

    def conversation(
        self,
        rounds: Sequence[tuple[str, str]],
        *,
        image: Int[np.ndarray, " image"] | None,
        image_round: int = 0,
        in_answer: bool = False,
    ) -> Tokens:
        """As `turns`, of (question, answer) rounds with at most one image.

        Args:
            image: the tokens of its image, from a `Layout`.
            image_round: number of the round that has the image.
            in_answer: it is in the answer of this round, not in the question.
        """
        place = {"image_round": image_round, "in_answer": in_answer}
        turns = turns_of_rounds(rounds, image=image is not None, **place)
        return self.turns(turns, [] if image is None else [image])

    def turns(self, turns: Sequence[Turn], images: Sequence[Int[np.ndarray, " _"]]) -> Tokens:
        """A whole conversation, cut at `max_length` with its images' tokens counted.

        Nothing is labelled where all answers are empty or after the cut.

        Args:
            images: the tokens of each of its images, from a `Layout`.

        Raises ImageCutError: a ValueError: `max_length` would cut an image.
        """
        chunks, answers = self.template.render(turns)
        ids, labelled, places = [], [], []
        if len(chunks) != len(images) + 1:
            raise ValueError(f"{len(images)} images for {len(chunks) - 1} places in the turns")
        for number, (chunk_ids, offsets) in enumerate(self._tokenised(chunks, images)):
            if number:
                places.append(len(ids))
            spans = [(start, stop) for which, start, stop in answers if which == number]
            ids += chunk_ids
            labelled += [any(a < stop and start < b for start, stop in spans) for a, b in offsets]
        image_tokens = sum(map(len, images))
        room = self.max_length - image_tokens
        if places and places[-1] > room:
            raise ImageCutError(
                f"max_length {self.max_length} ends inside "
                f"{'the image, which needs' if len(places) == 1 else 'its images, which need'} "
                f"{places[-1] + image_tokens} tokens with the text before "
                f"{'it' if len(places) == 1 else 'them'}; raise max_length"
            )
        return Tokens(
            np.array(ids[:room], dtype=np.int32),
            np.array(labelled[:room], dtype=bool),
            tuple(places),
            tuple(images),
        )

    def located(
        self, turns: Sequence[Turn], images: Sequence[Int[np.ndarray, " _"]]
    ) -> tuple[list[str], list[tuple[int, int, int]], list[list[tuple[int, int]]]]:
        """The chunks of text and the answers' spans as `template.render` gives them, and where in
        its chunk every token of `turns` is, in characters, those after the cut included.
        """
        chunks, answers = self.template.render(turns)
        return chunks, answers, [places for _, places in self._tokenised(chunks, images)]

    def prompt(self, question: str, *, image: Int[np.ndarray, " image"] | None) -> Tokens:
        """A question up to where the answer starts; nothing is labelled."""
        if isinstance(self.template, Plain):
            raise ValueError("the captions template has no questions; give a chat template")
        ids, places = [], []
        images = () if image is None else (image,)
        chunks = self.template.prompt(question, image=image is not None)
        for number, (chunk_ids, _) in enumerate(self._tokenised(chunks, images)):
            if number:
                places.append(len(ids))
            ids += chunk_ids
        labelled = np.zeros(len(ids), dtype=bool)
        return Tokens(np.array(ids, dtype=np.int32), labelled, tuple(places), images)

    def _tokenised(
        self, chunks: Sequence[str], images: Sequence[Int[np.ndarray, " _"]]
    ) -> list[TokenisedText]:
        """Ids and character offsets of every chunk."""
        if isinstance(self.template, TokenizerTemplate):
            return self.template.tokenised(chunks, images)
        return [self._tokenise(chunk, first=not number) for number, chunk in enumerate(chunks)]

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
