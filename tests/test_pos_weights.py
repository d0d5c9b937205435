"""Weights of tokens by part of speech: by hand, with tags that a test gives, and with spaCy."""

import dataclasses
import sys
import types

import numpy as np
import pytest
from toy import ROWS, Toy

from xmas.data.turns import ASSISTANT, USER, Turn
from xmas.features.losses import pos_weights
from xmas.features.losses.pos_weights import (
    Located,
    TokenWeights,
    tagger,
    weight_of,
    weights_of_tokens,
)
from xmas.store.feasible import check_all


def test_weights_of_tags():
    content = "NN NNS NNP VB VBZ JJ JJR RB RBS CD".split()
    function = "DT IN CC PRP PRP$ WP WP$ MD RP TO . , : `` '' -LRB- -RRB- HYPH".split()
    others = ["UH", "EX", "WDT", "WRB", "PDT", "$", "SYM", ""]
    assert {weight_of(tag) for tag in content + others} == {1.0}
    assert {weight_of(tag) for tag in function} == {0.1}


def test_tokens_meet_words_by_characters():
    """`the dogs.`: of the tokens `the`, ` do`, `gs.` and ``, the third has two letters of a noun
    and a full stop; a space and an empty token are of no word.
    """
    words = [(0, 3, 0.1), (4, 8, 1.0), (8, 9, 0.1)]
    tokens = [(0, 3), (3, 6), (6, 9), (3, 4), (9, 9), (0, 9)]
    expected = [0.1, 1.0, 2.1 / 3, 1.0, 1.0, (0.3 + 4 + 0.1) / 8]
    np.testing.assert_allclose(weights_of_tokens(tokens, words, 9), expected)
    assert weights_of_tokens([], [], 0).tolist() == []


class Tagger:
    """Words between spaces; those of three letters or fewer have the tag of an article."""

    def pipe(self, texts):
        for text in texts:
            yield [
                Word(text.index(word), word, "DT" if len(word) <= 3 else "NN")
                for word in dict.fromkeys(text.split())
            ]


@dataclasses.dataclass
class Word:
    idx: int
    text: str
    tag_: str

    def __len__(self) -> int:
        return len(self.text)


def test_every_answer_is_tagged_on_its_own(toy: Toy, monkeypatch):
    monkeypatch.setattr(pos_weights, "tagger", lambda name: Tagger())
    tokens = toy.proxy.tokens()
    weights, table = TokenWeights(tokens).open(toy.store), tokens.open(toy.store)
    encoder = tokens.encoder(toy.store)
    assert sum(len(weights[row]) for row in range(ROWS)) == table.offsets[-1]
    low = 0
    for row in (0, 1, 3, 8, 25):
        here, ids = weights[row], table.ids(row)
        text = [encoder.tokenizer.decode([token]) for token in ids.tolist()]
        labelled = table[row].labelled
        assert (here[~labelled] == 1).all()  # questions and roles
        assert here[labelled][-1] == 1  # </s>
        short = [word for _, answer in toy.pool.open().conversation(row) for word in answer.split()]
        for piece, weight in zip(np.array(text)[labelled], here[labelled], strict=True):
            if weight == pytest.approx(0.1, rel=1e-3):
                low += 1
                assert any(piece.strip() in word for word in short if len(word) <= 3)
    assert low > 5


def test_an_answer_is_found_where_it_is_said(toy: Toy):
    """Not in the question before it, which has the same words; an image may part it."""
    tokens = toy.proxy.tokens()
    encoder = tokens.encoder(toy.store)
    turns = [
        Turn(USER, "a disc"),
        Turn(ASSISTANT, "a disc"),
        Turn(USER, "Why?"),
        Turn(ASSISTANT, ""),
    ]
    located = Located(encoder, turns, encoder.turns(turns, []))
    ((chunk, first, text),) = located.said
    assert (chunk, text) == (0, "a disc")
    assert first == len("USER: a disc ASSISTANT: ")
    image = np.zeros(4, dtype=np.int32)
    turns = [Turn(USER, "Draw."), Turn(ASSISTANT, "Here it is", (5,))]
    located = Located(encoder, turns, encoder.turns(turns, [image]))
    assert [(chunk, text) for chunk, _, text in located.said] == [(0, "Here"), (1, "it is")]
    assert len(located.weights([[], []])) == len(encoder.turns(turns, [image]).ids)


def test_without_spacy_or_its_tagger_it_is_said_what_to_install(toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'xmas\[pos\]' and python -m spacy"):
        tagger("en_core_web_sm")

    def load(name: str, exclude: list[str]) -> None:
        raise OSError("[E050] Can't find model")

    monkeypatch.setitem(sys.modules, "spacy", types.SimpleNamespace(load=load))
    with pytest.raises(ValueError, match=r"tagger=en_core_web_lg: .*spacy download en_core_web_lg"):
        tagger("en_core_web_lg")
    stage = TokenWeights(toy.proxy.tokens(), "en_core_web_lg")
    with pytest.raises(ValueError, match="tagger=en_core_web_lg"):  # before a model is loaded
        check_all(stage, toy.store)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of click, in spaCy's own import
def test_a_pipeline_of_spacy(tmp_path):
    spacy = pytest.importorskip("spacy")
    blank = spacy.blank("en")
    blank.add_pipe("attribute_ruler").add([[{"LOWER": "the"}]], {"TAG": "DT"})
    blank.to_disk(tmp_path)
    (document,) = tagger(str(tmp_path)).pipe(["The dog's dinner"])
    words = [(word.idx, word.idx + len(word), weight_of(word.tag_)) for word in document]
    assert words == [(0, 3, 0.1), (4, 7, 1.0), (7, 9, 1.0), (10, 16, 1.0)]
