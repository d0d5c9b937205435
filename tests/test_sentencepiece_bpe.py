"""Llama's tokenizer from `tokenizer.model`: ids are sentencepiece's, segment by segment.

The reference is sentencepiece itself under the rule of transformers 4's slow tokenizer, which LLaVA
was trained with: special tokens part a text into segments; with `legacy` each segment gets a space
mark, without it only the text's beginning does.
"""

import json
import random
import re
import sys
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from transformers import PreTrainedTokenizerFast

from xmas.models.chat.labels import Encoder
from xmas.models.chat.layout import Fixed
from xmas.models.chat.saved_tokenizer import pin
from xmas.models.chat.template import VICUNA_SYSTEM, Template
from xmas.models.sentencepiece_bpe import TRAPS, TokenizerError
from xmas.models.sources import tokenizer_of

SPECIAL = re.compile(r"(<unk>|<s>|</s>)")
WORDS = (
    "the a of what colour is this? image shows two  dogs cat: 12 3.5 (left) right, def f(x):\n    "
    "return x\n\n- item 1\n\t* 数 一二三 はい là-bas é e\u0301 🎨 🧑\u200d🎨 \x07 \u00a0 ▁ "
    "</s> USER: ASSISTANT:"
).split(" ")
PUBLISHED = Path(sys.prefix, "share/unimported/mistral_common/data/tokenizer.model.v1")


def sentences(count: int, seed: int) -> list[str]:
    """Words and traps, joined by one to four spaces, tabs or line breaks."""
    rng = random.Random(seed)
    gaps = [" ", " ", " ", "  ", "   ", "    ", "\t", "\n", "\n\n", ""]
    texts = []
    for _ in range(count):
        parts = [
            rng.choice([*WORDS, *TRAPS]) + rng.choice(gaps) for _ in range(rng.randrange(1, 19))
        ]
        texts.append(rng.choice(["", "", " ", "   "]) + "".join(parts))
    return texts


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A model with the options of Llama's: pieces of white space, bytes, nothing normalised."""
    folder = tmp_path_factory.mktemp("model")
    text = folder / "text.txt"
    lines = [line for line in " ".join(sentences(400, 1)).split("\n") if line]
    text.write_text("\n".join(lines * 3))
    SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=520,
        byte_fallback=True, split_digits=True, allow_whitespace_only_pieces=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
        character_coverage=0.99, minloglevel=2,
    )  # fmt: skip
    proto = ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    for piece in proto.pieces:  # as in Llama's: low ids, the lowest score
        if set(piece.piece) == {"▁"}:
            piece.score = -1e9
    assert sum(set(piece.piece) == {"▁"} for piece in proto.pieces) > 1
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    return folder


@pytest.fixture(
    scope="module",
    params=[
        "trained",
        pytest.param(
            "published",
            marks=pytest.mark.skipif(not PUBLISHED.exists(), reason="`make install` brings it"),
        ),
    ],
)
def model(request, trained) -> bytes:
    """Our own of 520 pieces, and a published one of Llama's kind with 32,000."""
    if request.param == "trained":
        return (trained / "tokenizer.model").read_bytes()
    return PUBLISHED.read_bytes()


@pytest.fixture(scope="module", params=[True, False], ids=["legacy", "not legacy"])
def folder(request, model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("folder")
    (folder / "tokenizer.model").write_bytes(model)
    config = {
        "tokenizer_class": "LlamaTokenizer", "legacy": request.param, "add_bos_token": True,
        "add_eos_token": False, "model_max_length": 4096, "pad_token": None,
        "bos_token": {"__type": "AddedToken", "content": "<s>", "normalized": False},
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return tokenizer_of(folder)


class Slow:
    """Ids by transformers 4's rule for its slow Llama tokenizer, out of sentencepiece."""

    def __init__(self, folder: Path) -> None:
        proto = ModelProto.FromString((folder / "tokenizer.model").read_bytes())
        self.marking = SentencePieceProcessor(model_proto=proto.SerializeToString())
        proto.normalizer_spec.add_dummy_prefix = False
        self.bare = SentencePieceProcessor(model_proto=proto.SerializeToString())
        self.legacy = json.loads((folder / "tokenizer_config.json").read_text())["legacy"]

    def __call__(self, text: str) -> list[int]:
        if not self.legacy and text:
            text = "▁" + text.replace("▁", " ")
        ids: list[int] = []
        segments = [segment for segment in SPECIAL.split(text) if segment]
        for segment in segments:
            if SPECIAL.fullmatch(segment):
                ids.append(self.marking.piece_to_id(segment))
            elif self.legacy:
                ids += self.marking.encode(segment)
            elif segment[0] in " ▁":
                opening = self.bare.encode("<unk>")
                ids += self.bare.encode("<unk>" + segment)[len(opening) :]
            else:
                ids += self.bare.encode(segment)
        if not self.legacy and len(segments) > 1 and segments[0] == "▁":
            ids = ids[1:]
        return ids


@pytest.fixture(scope="module")
def slow(folder) -> Slow:
    return Slow(folder)


def test_ids_are_those_of_sentencepiece(slow, tokenizer):
    texts = [*TRAPS, *sentences(600, 2)]
    assert sum("</s>" in text for text in texts) > 50
    for text in texts:
        assert tokenizer.encode(text, add_special_tokens=False) == slow(text), repr(text)
    assert tokenizer.pad_token == "</s>"  # it has none of its own


def test_two_spaces_do_not_become_one_piece_before_a_word(tokenizer):
    pieces = tokenizer.tokenize("a  the")
    assert pieces[-1].lstrip("▁") != ""
    assert pieces[-2] == "▁"


@pytest.mark.parametrize("text", ["x{}y", "\n{}x", "{}", "x{}"])
def test_long_runs_are_split_from_the_left(slow, tokenizer, text):
    """All pieces of white space have one score: 17 spaces are 16 and 1, not 14 and 3."""
    for character in (" ", "\t", "-", "=", "a", "\n ", ". "):
        for count in (*range(1, 40), 63, 64, 65, 83):
            run = text.format(character * count)
            assert tokenizer.encode(run, add_special_tokens=False) == slow(run), repr(run)


def test_a_saved_tokenizer_gives_the_same_ids(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "saved")
    pin(tmp_path / "saved")
    saved = PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")
    for text in sentences(100, 3):
        assert saved(text).input_ids == tokenizer(text).input_ids


def test_labels_of_conversations_are_those_of_sentencepiece(slow, tokenizer):
    """LLaVA: BOS, then the texts before and after the picture, each tokenised from its start."""
    encoder = Encoder(tokenizer, Template(system=VICUNA_SYSTEM))
    rng = random.Random(4)
    texts = [text.replace("</s>", "").strip() for text in sentences(900, 5)]
    texts = [text for text in texts if text]
    for _ in range(200):
        turns = [(rng.choice(texts), rng.choice(texts)) for _ in range(rng.randrange(1, 4))]
        prompt = VICUNA_SYSTEM + " "
        for number, (question, answer) in enumerate(turns):
            marked = f"<image>\n{question}" if number == 0 else question
            prompt += f"USER: {marked} ASSISTANT: {answer}</s>"
        before, after = prompt.split("<image>")
        tokens = encoder.conversation(turns, image=Fixed(5).tokens(None), image_round=0)
        assert tokens.ids.tolist() == [1, *slow(before), *slow(after)]
        ends = [place for place, number in enumerate(tokens.ids) if number == 2]
        assert len(ends) == len(turns)
        assert tokens.labelled[ends].all()


def test_what_sentencepiece_would_not_split_so_is_refused(trained, tmp_path):
    """Unigram, another class, tokens beyond the model's, no model at all."""
    (tmp_path / "text.txt").write_text("\n".join(sentences(300, 6)).replace("\x00", ""))
    SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "tokenizer"),
        model_type="unigram", vocab_size=380, byte_fallback=True, minloglevel=2,
    )  # fmt: skip
    with pytest.raises(TokenizerError, match=r"tokenizer\.model: .* to sentencepiece and would be"):
        tokenizer_of(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes((trained / "tokenizer.model").read_bytes())
    tokenizer_of(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"<pad>": 520}')
    with pytest.raises(TokenizerError, match=r"added_tokens\.json: \{'<pad>': 520\} are not in"):
        tokenizer_of(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    with pytest.raises(TokenizerError, match="T5Tokenizer is none of LlamaTokenizer"):
        tokenizer_of(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(TokenizerError, match="not a sentencepiece model"):
        tokenizer_of(tmp_path)
