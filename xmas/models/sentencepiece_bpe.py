"""Llama's tokenizer out of `tokenizer.model`, as sentencepiece itself splits texts.

Vicuna v1.5 comes with a `tokenizer.model` alone. transformers 5.23 turns such a file into merges by
the *id* of what they make; sentencepiece merges by *score*, and the two differ where it matters:
pieces of white space have low ids and the lowest score of all. "Hello  world" is `▁Hello ▁ ▁world`
in the model's training and in LLaVA's, and would become `▁Hello ▁▁ world`.
"""

import json
from pathlib import Path
from typing import Any

FILE = "tokenizer.model"
_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")
_CONFIGURED = (  # of tokenizer_config.json; what else is there is of no effect on ids
    "add_bos_token", "add_eos_token", "bos_token", "chat_template", "eos_token",
    "model_max_length", "pad_token", "unk_token",
)  # fmt: skip
TRAPS = (
    "Hello  world", " a", "  two", "three   ", "\tTab\t\ttabs", "lines\n\n  and\r\n\n",
    "def f():\n    x", "2024-11-28 1,234.50", "数一数 一二三", "Ünïcödé e\u0301",
    "🎨 🧑\u200d🎨", "\x00\x07\x7f", "\u00a0x\u2003y", "aaaaaaaa", " ", "     ",
    "x" + " " * 41 + "y", " " * 83, "-" * 41, "=" * 83,
    "\u2581 meta", "ﬁ", "ASSISTANT: USER: ", "a_b-c/d\\e", "\u202eright",
)  # fmt: skip


class TokenizerError(ValueError):
    """A tokenizer's file cannot be used; the message names the file and what to give instead."""


def sentencepiece_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder that has `tokenizer.model` and no `tokenizer.json`.

    It is a `LlamaTokenizer` of transformers whose merges are ordered by score. As in transformers
    4, `legacy` of `tokenizer_config.json` says whether the text after an end token gets a space
    mark too (true, and the default where the file is silent) or the beginning alone.

    Raises TokenizerError: sentencepiece is not installed; the file is of another class, or not a
    BPE model with Llama's options, so that ids would differ from sentencepiece's; or the folder
    adds tokens (`added_tokens.json`) that the model does not have.
    """
    from tokenizers import normalizers, pre_tokenizers
    from transformers import LlamaTokenizer

    path = folder / FILE
    config = _json(folder / "tokenizer_config.json")
    if (name := config.get("tokenizer_class", _CLASSES[0])) not in _CLASSES:
        raise TokenizerError(
            f"{path}: {name} is none of {', '.join(_CLASSES)}; give the folder a tokenizer.json"
        )
    model = _model(path)
    legacy = bool(config.get("legacy", True))
    options = {name: config[name] for name in _CONFIGURED if config.get(name) is not None}
    options = {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in options.items()
    }
    vocabulary = {model.id_to_piece(number): number for number in range(model.get_piece_size())}
    tokenizer = LlamaTokenizer(
        vocab=vocabulary, merges=merges_by_score(model, vocabulary), legacy=legacy, **options
    )
    space_marks = normalizers.Replace(" ", "▁")
    backend = tokenizer.backend_tokenizer
    if legacy:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space_marks])
        backend.pre_tokenizer = None
    else:
        # `Metaspace` marks the beginning of a text unless it begins with the mark. Sentencepiece
        # marks it always, so spaces are turned before, and the mark begins as a space.
        backend.normalizer = space_marks
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Metaspace(" ", prepend_scheme="first", split=False),
                pre_tokenizers.Metaspace("▁", prepend_scheme="never", split=False),
            ]
        )
    _check_added(folder, tokenizer)
    _compare(path, model, tokenizer)
    return tokenizer


def merges_by_score(model: Any, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, the pair whose piece scores highest first.

    Of equal scores, which all pieces of white space have, sentencepiece takes the leftmost pair of
    the text. A run of spaces so grows from its left end: the pair with the longer first piece goes
    first.

    Args:
        model: a `SentencePieceProcessor`.
        vocabulary: its pieces and their ids.
    """
    pairs = []
    for piece, number in vocabulary.items():
        if model.is_control(number) or model.is_unknown(number) or model.is_byte(number):
            continue
        for cut in range(1, len(piece)):
            prefix, suffix = piece[:cut], piece[cut:]
            if prefix in vocabulary and suffix in vocabulary:
                pairs.append((-model.get_score(number), -cut, prefix, suffix))
    return [(prefix, suffix) for _, _, prefix, suffix in sorted(pairs)]


def _model(path: Path) -> Any:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise TokenizerError(
            f"{path}: reading it needs the package sentencepiece; pip install sentencepiece, or "
            "give the folder a tokenizer.json"
        ) from error
    try:
        return SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise TokenizerError(f"{path}: not a sentencepiece model: {error}") from error


def _check_added(folder: Path, tokenizer: Any) -> None:
    """Tokens beyond the model's would get ids by the order in which transformers adds them."""
    added = _json(folder / "added_tokens.json")
    foreign = {
        token: number
        for token, number in added.items()
        if tokenizer.convert_tokens_to_ids(token) != number
    }
    if foreign:
        raise TokenizerError(
            f"{folder / 'added_tokens.json'}: {foreign} are not in {FILE}; give the folder a "
            "tokenizer.json"
        )


def _compare(path: Path, model: Any, tokenizer: Any) -> None:
    for text in TRAPS:
        expected = model.encode(text)
        encoded = tokenizer.encode(text, add_special_tokens=False)
        if encoded != expected:
            raise TokenizerError(
                f"{path}: {text!r} is {expected} to sentencepiece and would be {encoded} here: not "
                "a BPE model with Llama's options; give the folder a tokenizer.json"
            )


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
