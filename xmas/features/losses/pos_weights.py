"""Weights of tokens by part of speech: what a word means counts, how a sentence is built less."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from xmas.data.turns import ASSISTANT, Turn
from xmas.models.chat.labels import Encoder, Tokens
from xmas.models.chat.tokens import Tokenised, TokenTable
from xmas.store import Stage, Store
from xmas.store.progress import bar

CONTENT, FUNCTION, OTHER = 1.0, 0.1, 1.0
_CONTENT = ("NN", "VB", "JJ", "RB", "CD")  # and tags that begin with these
_FUNCTION = set("DT IN CC PRP PRP$ WP WP$ MD RP TO".split())
_PUNCTUATION = set(". , : `` '' -LRB- -RRB- HYPH NFP".split())
_ROWS = 1024  # tagged at a time

Word = tuple[int, int, float]  # first character, end, weight


def weight_of(tag: str) -> float:
    """The weight of a word by its tag of the Penn treebank.

    >>> from xmas.features.losses.pos_weights import weight_of
    >>> [weight_of(tag) for tag in ("NNS", "DT", ".", "UH")]
    [1.0, 0.1, 0.1, 1.0]
    """
    if tag.startswith(_CONTENT):
        return CONTENT
    return FUNCTION if tag in _FUNCTION | _PUNCTUATION else OTHER


def weights_of_tokens(
    tokens: Sequence[tuple[int, int]], words: Sequence[Word], length: int
) -> Float[np.ndarray, " tokens"]:
    """The weight of every token: the mean over its characters of the weights of their words.

    Characters of no word, such as spaces, do not count; a token of these alone has `OTHER`.

    Args:
        tokens: first character and end of each, in a text of `length` characters.
        words: in the same text.
    """
    of_characters, is_word = np.zeros(length), np.zeros(length)
    for start, stop, weight in words:
        of_characters[start:stop], is_word[start:stop] = weight, 1
    spans = np.array(tokens, dtype=np.int64).reshape(-1, 2)
    sums, counts = (
        np.concatenate([[0], np.cumsum(each)])[spans] @ [-1, 1] for each in (of_characters, is_word)
    )
    return np.divide(sums, counts, out=np.full(len(spans), OTHER), where=counts > 0)


def tagger(name: str) -> Any:
    """A pipeline of spaCy that tags English words.

    Raises:
        ModuleNotFoundError: spaCy is not installed; says how to install it.
        ValueError: there is no such pipeline; says how to get it.
    """
    try:
        import spacy  # pyright: ignore[reportMissingImports]  # an extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "features.consistency.weights=pos needs spaCy: pip install 'xmas[pos]' and python -m "
            f"spacy download {name}, or set features.consistency.weights=none"
        ) from error
    try:
        return spacy.load(name, exclude=["parser", "ner", "lemmatizer"])
    except OSError as error:
        raise ValueError(
            f"features.consistency.tagger={name}: spaCy has no such pipeline; get it by python -m "
            f"spacy download {name}, name a folder, or set features.consistency.weights=none"
        ) from error


class Located:
    """A conversation with the place of every token and of what the model says in its text.

    Attributes:
        said: of every piece that the model says, its chunk, its first character there, and it.
    """

    def __init__(self, encoder: Encoder, turns: Sequence[Turn], tokens: Tokens) -> None:
        self._length = len(tokens.ids)
        self._chunks, answers, self._places = encoder.located(turns, tokens.images)
        pieces = [
            piece.strip()
            for turn in turns
            if turn.role == ASSISTANT
            for piece in turn.pieces()
            if piece.strip()
        ]
        self.said: list[tuple[int, int, str]] = []
        for chunk, start, stop in answers:
            places = (self._chunks[chunk].find(piece, start, stop) for piece in pieces)
            position, first = next(
                ((each, place) for each, place in enumerate(places) if place >= 0), (-1, -1)
            )
            if first >= 0:
                self.said.append((chunk, first, pieces[position]))
                pieces = pieces[position + 1 :]

    def weights(self, words: Sequence[Sequence[Word]]) -> Float[np.ndarray, " text"]:
        """The weight of every text token, of the words of each of `said`."""
        of_chunks: list[list[Word]] = [[] for _ in self._chunks]
        for (chunk, first, _), of_piece in zip(self.said, words, strict=True):
            of_chunks[chunk] += [(first + a, first + b, weight) for a, b, weight in of_piece]
        weights = [
            weights_of_tokens(places, of_chunk, len(chunk))
            for places, of_chunk, chunk in zip(self._places, of_chunks, self._chunks, strict=True)
        ]
        return np.concatenate(weights)[: self._length]


@dataclasses.dataclass(frozen=True)
class TokenWeights(Stage):
    """`values.bin` float16, a weight for every text token of `tokens`, in the order of its ids.

    Words and tags are spaCy's, of every answer or rewritten question on its own; tokens outside
    answers, and the mark at the end of one, have `OTHER`.

    Source: DICS (arXiv 2608.30209), appendix A. Ours: how tokens meet words, by characters.

    Args:
        tagger: a pipeline of spaCy with tags of the Penn treebank, a package or a folder.
    """

    kind: ClassVar[str] = "token_weights"

    tokens: Tokenised
    tagger: str = "en_core_web_sm"

    def check(self, store: Store) -> None:
        """Raises ModuleNotFoundError or ValueError: spaCy or the tagger is missing."""
        tagger(self.tagger)

    def compute(self, store: Store, out: Path) -> None:
        pipeline = tagger(self.tagger)
        examples = self.tokens.pool.open(store)
        table, encoder = self.tokens.open(store), self.tokens.encoder(store)
        with (
            (out / "values.bin").open("wb") as file,
            bar(total=len(table), label="parts of speech") as progress,
        ):
            for start in range(0, len(table), _ROWS):
                rows = range(start, min(start + _ROWS, len(table)))
                conversations = [
                    Located(encoder, self.tokens.turns(examples, row), table[row]) for row in rows
                ]
                texts = [text for each in conversations for _, _, text in each.said]
                documents = pipeline.pipe(texts)
                for each in conversations:
                    tagged = [
                        [
                            (word.idx, word.idx + len(word), weight_of(word.tag_))
                            for word in document
                        ]
                        for document in itertools.islice(documents, len(each.said))
                    ]
                    file.write(each.weights(tagged).astype(np.float16).tobytes())
                progress.update(len(rows))

    def open(self, store: Store) -> "WeightTable":
        return WeightTable(store.get(self), self.tokens.open(store))


class WeightTable:
    """A `TokenWeights` result, memory-mapped: the weights of a row's text tokens by row."""

    def __init__(self, folder: Path, table: TokenTable) -> None:
        self._offsets = table.offsets
        self._values = np.memmap(folder / "values.bin", dtype=np.float16, mode="r")

    def __getitem__(self, row: int) -> Float[np.ndarray, " text"]:
        return self._values[self._offsets[row] : self._offsets[row + 1]].astype(np.float64)
