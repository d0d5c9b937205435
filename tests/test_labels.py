"""Labels: the answers' tokens and nothing else, whatever tokenizer, template and length."""

import dataclasses
import itertools
import json
import random
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from toy import MAX_LENGTH, ROWS, TEMPLATE, TEXT_ONLY, Toy, losses, turns
from transformers import AutoTokenizer, LlamaTokenizer

from xmas.data.pool import Pool
from xmas.data.rows import PoolError
from xmas.data.turns import Turn, turns_of_rounds
from xmas.models.chat.labels import Encoder, ImageCutError
from xmas.models.chat.layout import Fixed
from xmas.models.chat.template import VICUNA_SYSTEM, Plain, Template
from xmas.models.chat.tokens import Tokenised

IMAGE_LENGTH = 13
IMAGE = Fixed(IMAGE_LENGTH).tokens(None)
SPOKEN = [VICUNA_SYSTEM, "USER: ASSISTANT:", "What is drawn? Which colour? Combien ?", "Answer it."]

CONVERSATIONS = {
    "one turn": [("What is drawn?", "a crimson disc")],
    "many turns": [("What?", "a box"), ("Which colour?", "gold"), ("Where?", "on the left")],
    "digits": [("How many?", "42"), ("And now?", "7")],
    "chinese": [("数一数", "一二三"), ("再数", "四")],
    "newlines": [("List them.", "1. a\n2. b\n\n- c"), ("Again.", "\n- d\n")],
    "spaces": [(" two  spaces ", " answer  with   spaces ")],
    "emoji and accents": [("Où ?", "là-bas 🎨, ça"), ("🎨?", "é")],
    "roles in the text": [("Say USER: or ASSISTANT: twice", "ASSISTANT: USER: no"), ("b", "c")],
    "end marks in the question": [("What does </s> mean?", "the end"), ("Sure?", "yes")],
    "an end mark at the end of an answer": [("a", "b</s>"), ("c", "d")],
    "pads in the text": [("What does <unk> mean?", "a <unk> b"), ("Sure?", "yes")],
    "one letter": [("a", "b")],
    "an image alone": [("", "a fig"), ("Sure?", "yes")],
    "empty answer in the middle": [("a", "b"), ("c", ""), ("d", "e")],
}  # fmt: skip
LOST = (  # by LLaVA, and under strict parity
    "roles in the text",
    "end marks in the question",
    "an end mark at the end of an answer",
    "pads in the text",
)


def llava_text(
    rounds: list[tuple[str, str]],
    *,
    image: bool,
    system=VICUNA_SYSTEM,
    image_round=0,
    in_answer=False,
) -> str:
    """The text of LLaVA's `preprocess_multimodal` and `Conversation.get_prompt`: the placeholder at
    the start of the turn that has it, alone where nothing else is in the turn; a role before every
    turn, and a separator behind each that is not empty.
    """
    text = f"{system} " if system else ""
    for number, both in enumerate(rounds):
        for turn, (role, sep, message) in enumerate(
            zip(("USER", "ASSISTANT"), (" ", "</s>"), both, strict=True)
        ):
            if image and (number, turn) == (image_round, int(in_answer)):
                message = f"<image>\n{message}" if message else "<image>"
            text += f"{role}: {message}{sep}" if message else f"{role}:"
    return text


def metaspace(legacy: bool) -> LlamaTokenizer:
    """Llama's tokenizer over a vocabulary of its kind, made here: words of `SPOKEN`, all bytes."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    trained.train_from_iterator(
        SPOKEN * 5, trainers.BpeTrainer(vocab_size=300, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    marks = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    vocabulary = {piece: number for number, piece in enumerate([*marks, *pieces])}
    merges = [tuple(pair) for pair in model["merges"]]
    return LlamaTokenizer(vocab=vocabulary, merges=merges, legacy=legacy, add_bos_token=True)


@pytest.fixture(scope="module")
def tokenizers(toy: Toy) -> dict:
    """The kinds there are: bytes, and Llama's with both ways of putting its space mark."""
    return {
        "bytes": AutoTokenizer.from_pretrained(toy.store.get(toy.tokenizer)),
        "first": metaspace(legacy=False),
        "always": metaspace(legacy=True),
    }


@pytest.fixture(params=["bytes", "first", "always"])
def tokenizer(request, tokenizers):
    return tokenizers[request.param]


@pytest.fixture(params=["", VICUNA_SYSTEM], ids=["bare", "vicuna"])
def encoder(request, tokenizer) -> Encoder:
    return Encoder(tokenizer, Template(system=request.param))


@pytest.fixture
def encoders(tokenizers) -> list[Encoder]:
    """`encoder` of every kind."""
    return [
        Encoder(tokenizer, Template(system=system))
        for tokenizer in tokenizers.values()
        for system in ("", VICUNA_SYSTEM)
    ]


def with_and_without_image(encoders: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """In one test: hundreds of a millisecond each would cost several times as much."""
    return itertools.product(encoders, (False, True))


def runs(labelled: np.ndarray) -> list[slice]:
    """Where labels stand: a slice for every unbroken run of them."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], labelled.astype(int), [0]])))
    return [slice(a, b) for a, b in edges.reshape(-1, 2)]


def test_the_rendered_text_is_vicuna_v1():
    rounds = [("What?", "A fig."), ("Sure?", "Yes.")]
    reference = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. USER: What? "
        "ASSISTANT: A fig.</s>USER: Sure? ASSISTANT: Yes.</s>"
    )
    chunks, answers = Template().render(turns_of_rounds(rounds, image=False))
    assert chunks == [reference]
    assert [reference[start:stop] for _, start, stop in answers] == [" A fig.</s>", " Yes.</s>"]
    chunks, answers = Template().render(turns_of_rounds(rounds, image=True))
    assert "<image>".join(chunks) == reference.replace("USER: What?", "USER: <image>\nWhat?")
    assert [chunks[at][start:stop] for at, start, stop in answers] == [" A fig.</s>", " Yes.</s>"]


def test_a_prompt_ends_where_the_answer_starts():
    assert Template().prompt("What?", image=True) == [
        VICUNA_SYSTEM + " USER: ",
        "\nWhat? ASSISTANT:",
    ]
    assert Template(system="").prompt("What?", image=False) == ["USER: What? ASSISTANT:"]


@pytest.mark.parametrize("legacy", [False, True])
def test_the_metaspace_tokenizer_is_of_llama_s_kind(legacy):
    """Otherwise the tests below would say nothing about Llama."""
    tokenizer = metaspace(legacy)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("USER: 4\n数</s>USER: b").input_ids)
    assert pieces[:1] == ["<s>"]
    assert pieces[1].startswith("▁")
    assert "<0x0A>" in pieces
    assert "<0xE6>" in pieces
    behind = pieces[pieces.index("</s>") + 1]
    assert behind.startswith("▁") == legacy


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_labels_cover_exactly_the_answers_and_their_end_marks(encoders, name):
    for encoder, image in with_and_without_image(encoders):
        rounds = CONVERSATIONS[name]
        tokens = encoder.conversation(rounds, image=IMAGE if image else None)
        expected = [f" {answer}</s>" for _, answer in rounds if answer]
        labelled_texts = [
            encoder.tokenizer.decode(tokens.ids[run]) for run in runs(tokens.labelled)
        ]
        assert len(labelled_texts) == len(expected)
        for text, answer in zip(labelled_texts, expected, strict=True):
            assert answer in (text, " " + text)  # Llama's decoder strips one space in front
        end = encoder.tokenizer.eos_token_id
        assert all(tokens.ids[run][-1] == end for run in runs(tokens.labelled))
        unlabelled = encoder.tokenizer.decode(tokens.ids[~tokens.labelled])
        assert len(re.findall("ASSISTANT:", unlabelled)) == len(rounds) + ("roles" in name)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_ids_are_those_of_llava_s_chunks(encoders, name):
    """LLaVA's `tokenizer_image_token`: chunks around the image alone, one begin mark."""
    for encoder, image in with_and_without_image(encoders):
        rounds = CONVERSATIONS[name]
        tokens = encoder.conversation(rounds, image=IMAGE if image else None)
        text = llava_text(rounds, image=image, system=encoder.template.system)
        begin = encoder.tokenizer.bos_token_id
        chunks = [encoder.tokenizer(chunk).input_ids for chunk in text.split("<image>", int(image))]
        assert all(chunk[0] == begin for chunk in chunks)
        assert tokens.ids.tolist() == [begin, *(number for chunk in chunks for number in chunk[1:])]
        assert tokens.image_at == (len(chunks[0]) if image else -1)
        assert len(tokens.labelled) == len(tokens.ids)


def test_an_image_placeholder_in_a_text_only_row_is_text(encoder):
    tokens = encoder.conversation([("Where is <image>?", "there")], image=None)
    assert tokens.image_at == -1
    assert "<image>" in encoder.tokenizer.decode(tokens.ids)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_prompt_is_how_its_conversation_starts(encoders, name):
    for encoder, image in with_and_without_image(encoders):
        question, answer = CONVERSATIONS[name][0]
        prompt = encoder.prompt(question, image=IMAGE if image else None)
        whole = encoder.conversation([(question, answer)], image=IMAGE if image else None)
        assert whole.ids[: len(prompt.ids)].tolist() == prompt.ids.tolist()
        assert prompt.image_at == whole.image_at
        assert not prompt.labelled.any()
        assert whole.labelled.tolist() == [False] * len(prompt.ids) + [True] * (
            len(whole.ids) - len(prompt.ids)
        )


def test_a_long_conversation_is_cut_with_the_image_counted(encoder):
    rounds = [("What?", "one two three four five six"), ("And?", "seven")]
    whole = encoder.conversation(rounds, image=IMAGE)
    last = np.flatnonzero(whole.labelled)[0] + 3  # within the first answer
    encoder.max_length = int(last) + IMAGE_LENGTH
    cut = encoder.conversation(rounds, image=IMAGE)
    assert len(cut.ids) + IMAGE_LENGTH == encoder.max_length
    assert cut.ids.tolist() == whole.ids[:last].tolist()
    assert cut.labelled.tolist() == whole.labelled[:last].tolist()
    assert cut.labelled.sum() == 3
    assert cut.image_at == whole.image_at
    encoder.max_length = int(last)
    text = encoder.conversation(rounds, image=None)
    assert len(text.ids) == encoder.max_length  # without an image all of it is for the text


def test_a_cut_through_the_image_is_refused(encoder):
    rounds = [("What?", "a fig")]
    before = encoder.conversation(rounds, image=IMAGE).image_at
    encoder.max_length = before + IMAGE_LENGTH - 1
    with pytest.raises(
        ValueError,
        match=f"max_length {before + 12} ends inside the image, which needs {before + 13} tokens",
    ):
        encoder.conversation(rounds, image=IMAGE)


def test_a_conversation_without_an_answer_has_no_labels(encoder):
    assert not encoder.conversation([("What?", "")], image=IMAGE).labelled.any()
    whole = encoder.conversation([("What?", "a fig")], image=IMAGE)
    encoder.max_length = int(np.flatnonzero(whole.labelled)[0]) + IMAGE_LENGTH
    cut = encoder.conversation([("What?", "a fig")], image=IMAGE)
    assert not cut.labelled.any()
    assert len(cut) == encoder.max_length
    encoder.max_length += 1  # the answer's first token fits
    assert encoder.conversation([("What?", "a fig")], image=IMAGE).labelled.sum() == 1


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_labels_are_those_of_llava_s_arithmetic(tokenizers, name):
    """Where it loses a conversation, it is kept here, and lost under strict parity."""
    kinds = (tokenizers["first"], tokenizers["always"])
    for tokenizer, image in with_and_without_image(kinds):
        rounds = CONVERSATIONS[name]
        image_ids = IMAGE if image else None
        counted = counted_by_llava(tokenizer, llava_text(rounds, image=image), image=image)
        encoded = Encoder(tokenizer, Template()).conversation(rounds, image=image_ids)
        strict = Encoder(tokenizer, Template(strict_parity=True)).conversation(
            rounds, image=image_ids
        )
        assert encoded.labelled.any()
        assert strict.ids.tolist() == encoded.ids.tolist()
        lost = name in LOST or (name == "an image alone" and not image)
        assert (counted is None) == lost
        if counted is None:
            assert not strict.labelled.any()
            continue
        placed = np.insert(encoded.labelled, encoded.image_at, False) if image else encoded.labelled
        assert placed.tolist() == counted
        assert strict.labelled.tolist() == encoded.labelled.tolist()


def counted_by_llava(tokenizer, text: str, *, image: bool) -> list[bool] | None:
    """Labels by lengths of separately tokenised rounds, an image counted as one token; null where
    these do not add up. The facts are those of LLaVA's `preprocess_v1`, behind its fix of 2024: a
    round behind `</s>` is shorter than alone, by 1 with `legacy` false and Llama's own vocabulary.
    What they have to add up to is the text without pads, which are the unknown token.
    """
    alone, behind = (len(tokenizer(text).input_ids) for text in ("USER:", "a</s>USER:"))
    lost = alone - 1 - (behind - len(tokenizer("a").input_ids) - 1)

    def length(part: str) -> int:
        chunks = part.split("<image>") if image else [part]
        return sum(len(tokenizer(chunk).input_ids) for chunk in chunks)

    labelled = np.ones(length(text), dtype=bool)
    labelled[0], at = False, 1
    for number, turn in enumerate(text.split("</s>")):
        parts = turn.split(" ASSISTANT: ")
        if len(parts) != 2:
            break
        shorter = lost if number else 0
        opening = length(parts[0] + " ASSISTANT: ") - 2 - shorter
        labelled[at : at + opening] = False
        at += length(turn) - shorter
    labelled[at:] = False
    pads = sum(tokenizer(chunk).input_ids.count(0) for chunk in text.split("<image>"))
    assert tokenizer.unk_token_id == 0
    return labelled.tolist() if at == len(labelled) - pads else None


def test_a_question_without_words_is_its_role_alone():
    """LLaVA `conversation.py`: an empty message is `USER:`, without the space on either side."""
    rounds = [("", "a fig"), ("Sure?", "yes"), ("", "so")]
    (text,), answers = Template(system="").render(turns_of_rounds(rounds, image=False))
    assert text == "USER:ASSISTANT: a fig</s>USER: Sure? ASSISTANT: yes</s>USER:ASSISTANT: so</s>"
    assert [text[start:stop] for _, start, stop in answers] == [" a fig</s>", " yes</s>", " so</s>"]
    chunks, _ = Template(system="").render(
        turns_of_rounds(rounds[:1], image=True)
    )  # `<image>\n`, stripped
    assert chunks == ["USER: ", " ASSISTANT: a fig</s>"]
    like_others = Template(system="", lone_user=None).render(
        turns_of_rounds(rounds[:1], image=False)
    )[0]
    assert like_others == ["USER:  ASSISTANT: a fig</s>"]


def test_an_image_opens_the_question_that_shows_it(encoder):
    rounds = [("Hello?", "hi"), ("What is drawn?", "a fig"), ("Sure?", "yes")]
    template = encoder.template
    chunks, answers = template.render(turns_of_rounds(rounds, image=True, image_round=1))
    front = f"{template.system} " if template.system else ""
    assert chunks == [
        f"{front}USER: Hello? ASSISTANT: hi</s>USER: ",
        "\nWhat is drawn? ASSISTANT: a fig</s>USER: Sure? ASSISTANT: yes</s>",
    ]
    replies = [chunks[at][start:stop] for at, start, stop in answers]
    assert replies == [" hi</s>", " a fig</s>", " yes</s>"]
    tokens = encoder.conversation(rounds, image=IMAGE, image_round=1)
    assert tokens.image_at > np.flatnonzero(tokens.labelled)[0]
    assert len(runs(tokens.labelled)) == 3


def conversations(
    count: int, seed: int
) -> Iterator[tuple[list[tuple[str, str]], dict[str, int | bool]]]:
    """Rounds of few words, a tenth of the turns with marks of LLaVA's, and where an image is."""
    rng = random.Random(seed)
    marks = ["<unk>", "</s>", " ASSISTANT: ", "USER:", "\n", "  ", "数", "🎨", "12"]
    words = ["What?", "a fig", "red", "on the left", "so it is"]

    def turn() -> str:
        parts = rng.choices(words, k=rng.randrange(4))
        if rng.random() < 0.1:
            parts.insert(rng.randrange(len(parts) + 1), rng.choice(marks))
        return " ".join(parts).strip()

    for _ in range(count):
        rounds = [(turn(), turn()) for _ in range(rng.randrange(1, 4))]
        place = {"image_round": rng.randrange(len(rounds)), "in_answer": rng.random() < 0.2}
        yield rounds, place


@pytest.mark.parametrize("kind", ["first", "always"])
def test_strict_labels_are_llava_s_whatever_the_text(tokenizers, kind):
    encoder, lost = Encoder(tokenizers[kind], Template(strict_parity=True)), 0
    for rounds, place in conversations(300, seed=1):
        tokens = encoder.conversation(rounds, image=IMAGE, **place)
        text = llava_text(rounds, image=True, **place)
        counted = counted_by_llava(tokenizers[kind], text, image=True)
        if counted is None:
            lost += 1
            assert not tokens.labelled.any(), text
            continue
        counted[tokens.image_at] = False
        assert np.insert(tokens.labelled, tokens.image_at, False).tolist() == counted, text
    assert 50 < lost < 250


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("answer", ["", "a fig", "12, 数"])
@pytest.mark.parametrize("kind", ["first", "always"])
def test_an_image_in_an_answer_stays_there_as_in_llava(tokenizers, kind, answer, at):
    rounds, tokenizer = [("What?", answer), ("And?", answer)], tokenizers[kind]
    encoder = Encoder(tokenizer, Template(strict_parity=True))
    text = llava_text(rounds[: at + 1], image=True, image_round=at, in_answer=True)
    if not answer and at:
        text = text.replace("USER: What? ASSISTANT:", "USER: What? ASSISTANT: yes</s>")
        rounds[0] = ("What?", "yes")  # or LLaVA would lose all
    tokens = encoder.conversation(rounds[: at + 1], image=IMAGE, image_round=at, in_answer=True)
    first, second = (tokenizer(chunk).input_ids for chunk in text.split("<image>"))
    assert tokens.ids.tolist() == [*first, *second[1:]]
    assert tokens.image_at == len(first)
    counted = counted_by_llava(tokenizer, text, image=True)
    assert counted is not None
    assert counted[len(first)]  # until LLaVA puts the image's features there, which it leaves out
    assert np.insert(tokens.labelled, len(first), True).tolist() == counted


def counted_by_tinyllava(ids_of, text: str) -> list[bool]:
    """Labels by TinyLLaVA's `Template._make_masks`, for a tokenizer without a begin mark."""
    labelled, at = np.ones(len(ids_of(text)), dtype=bool), 0
    for turn in text.split("</s>"):
        if not turn:
            break
        question, _ = turn.split(" ASSISTANT: ")
        labelled[at : at + len(ids_of(question + " ASSISTANT: ")) - 1] = False
        at += len(ids_of(turn)) + 1
    assert at == len(labelled)
    return labelled.tolist()


@pytest.mark.parametrize("answers", [("", "so"), ("so", ""), ("", ""), ("yes", "no")])
def test_an_empty_answer_ends_in_tinyllava_s_phi_and_its_end_is_learnt(tokenizers, answers):
    tokenizer = tokenizers["bytes"]
    rounds = list(zip(("What?", "Sure?"), answers, strict=True))
    text = "".join(f"USER: {question} ASSISTANT: {answer}</s>" for question, answer in rounds)
    encoder = Encoder(tokenizer, Template(system="", lone_user=None))
    tokens = encoder.conversation(rounds, image=None)
    assert tokens.ids.tolist() == tokenizer(text).input_ids

    def ids_of(part: str) -> list[int]:
        return tokenizer(part, add_special_tokens=False).input_ids

    assert not tokens.labelled[0]  # the begin mark, which TinyLLaVA's tokenizer does not have
    assert tokens.labelled[1:].tolist() == counted_by_tinyllava(ids_of, text)
    assert encoder.template.prompt("What?", image=False) == ["USER: What? ASSISTANT:"]


def test_templates_with_other_rules_than_before_have_other_keys():
    for template in (Template(), Template(system="", eos="<|im_end|>")):
        assert not template.corrections()
    strict, phi = Template(strict_parity=True), Template(lone_user=None)
    assert strict.corrections() == {"strict_rule": 2}
    assert phi.corrections() == {"empty_answers": "ended"}


def pool_of(folder, *conversations: list[str], image: bool = False) -> Pool:
    records = [{"id": n, "conversations": turns(*texts)} for n, texts in enumerate(conversations)]
    if image:
        for record in records:
            record["image"] = "a.png"
    (folder / "pool.json").write_text(json.dumps(records))
    Image.new("RGB", (9, 5)).save(folder / "a.png")
    return Pool(str(folder / "pool.json"), str(folder), name="few")


def test_the_round_of_an_image_is_found_in_the_pool(toy: Toy, tmp_path):
    pool = pool_of(tmp_path, ["Hello?", "hi", "What?\n<image>", "a fig"], image=True)
    assert [turn.images for turn in pool.open().turns(0)] == [(), (), (0,), ()]
    table = Tokenised(pool, toy.start.tokenizer, TEMPLATE, 16).open(toy.store)
    encoder = Tokenised(pool, toy.start.tokenizer, TEMPLATE, 16).encoder(toy.store)
    rounds = [("Hello?", "hi"), ("What?", "a fig")]
    expected = encoder.conversation(rounds, image=Fixed(16).tokens(None), image_round=1)
    assert table[0].ids.tolist() == expected.ids.tolist()
    assert table.image_at[0] == expected.image_at > 10


def test_an_image_in_an_answer_is_found_in_the_pool(toy: Toy, tmp_path):
    turns_of_row = ["Hello?", "hi", "Draw it.", "Here: <image> "]
    pool = pool_of(tmp_path, turns_of_row, image=True)
    examples = pool.open()
    assert [turn.images for turn in examples.turns(0)] == [(), (), (), (0,)]
    assert examples.conversation(0) == [("Hello?", "hi"), ("Draw it.", "Here:")]
    tokenised = Tokenised(pool, toy.start.tokenizer, Template(), 16)
    stored = tokenised.open(toy.store)[0]
    tokenizer = tokenised.encoder(toy.store).tokenizer
    first, second = llava_text(
        [("Hello?", "hi"), ("Draw it.", "Here:")], image=True, image_round=1, in_answer=True
    ).split("<image>")
    assert second == "\nHere:</s>"
    ids = [*tokenizer(first).input_ids, *tokenizer(second).input_ids[1:]]
    assert stored.ids.tolist() == ids
    assert stored.image_at == len(tokenizer(first).input_ids)


def test_rows_without_an_answer_are_told_and_left_out_of_fits(
    toy: Toy, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(
        "xmas.training.fit.trainer.check_rows", lambda *_: None
    )  # a pool of text is refused
    pool = pool_of(tmp_path, ["Hi?", "yes"], ["Hi?", ""], ["Why " * 200, "no"], ["Hi?", "so"])
    tokens = Tokenised(pool, toy.start.tokenizer, TEMPLATE, 16, max_length=120)
    with caplog.at_level("WARNING"):
        table = tokens.open(toy.store)
    assert "2 of 4 rows have no answer within max_length 120, first row 1" in caplog.text
    assert table.answered.tolist() == [True, False, False, True]
    assert (table.lengths > 0).all()
    proxy = dataclasses.replace(
        toy.proxy, pool=pool, cache_vision=False, max_length=120, snapshots=1
    )
    assert proxy.steps(toy.store) == [1]
    (row,) = losses(toy.store.get(proxy))
    expected = sum(int(table[row].labelled.sum()) for row in (0, 3))
    assert row["answer_tokens"] == expected


def test_a_pool_without_any_answer_is_refused(toy: Toy, tmp_path):
    tokens = Tokenised(pool_of(tmp_path, ["Hi?", ""]), toy.start.tokenizer, TEMPLATE, 16)
    with pytest.raises(
        PoolError, match=r"1 of 1 rows have no answer .*; raise max_length or fix the rows"
    ):
        toy.store.get(tokens)


def test_captions_are_labelled_whole_and_have_no_prompt(tokenizer):
    encoder = Encoder(tokenizer, Plain())
    tokens = encoder.conversation([("ignored", "a crimson disc"), ("", "gold")], image=IMAGE)
    assert tokens.image_at == 1
    assert tokens.ids[0] == tokenizer.bos_token_id
    assert tokens.labelled.tolist() == [False] + [True] * (len(tokens.ids) - 1)
    assert tokenizer.decode(tokens.ids[1:]) == "a crimson disc\ngold\n"
    with pytest.raises(ValueError, match="captions template has no questions"):
        encoder.prompt("What?", image=IMAGE)


def test_beside_captions_conversations_without_an_image_are_a_chat(tokenizer):
    rounds, chat = [("What?", "gold"), ("Sure?", "yes")], Template(system="Be brief.")
    captions, chatted = (
        Encoder(tokenizer, template).conversation(rounds, image=None)
        for template in (Plain(chat=chat), chat)
    )
    assert captions.ids.tolist() == chatted.ids.tolist()
    assert captions.labelled.tolist() == chatted.labelled.tolist()
    assert captions.image_at == -1


def test_the_token_table_holds_what_the_encoder_gives(toy: Toy):
    tokenised = toy.proxy.tokens()
    table = tokenised.open(toy.store)
    encoder, examples = tokenised.encoder(toy.store), toy.pool.open()
    assert len(table) == ROWS
    assert tuple(np.flatnonzero(table.image_at < 0)) == TEXT_ONLY
    for row in range(ROWS):
        image_ids = None if row in TEXT_ONLY else Fixed(16).tokens(None)
        expected = encoder.conversation(examples.conversation(row), image=image_ids)
        stored = table[row]
        assert stored.image.tolist() == expected.image.tolist()
        assert table.image_lengths[row] == len(stored.image) == 16 * (row not in TEXT_ONLY)
        assert stored.ids.tolist() == expected.ids.tolist()
        assert stored.labelled.tolist() == expected.labelled.tolist()
        assert stored.image_at == expected.image_at == table.image_at[row]
        assert table.text_lengths[row] == len(expected.ids)
        assert table.lengths[row] == len(expected.ids) + 16 * (row not in TEXT_ONLY)
    assert len(set(table.lengths.tolist())) > 7  # or batches would say nothing about padding


def test_a_row_that_cannot_be_trained_on_is_named(toy: Toy):
    short = Tokenised(toy.pool, toy.start.tokenizer, TEMPLATE, 16, max_length=20)
    with pytest.raises(PoolError, match=r"pool\.json: row 0: max_length 20 ends inside the image"):
        toy.store.get(short)
    assert MAX_LENGTH > 20


def test_a_system_turn_takes_the_place_of_the_template_s():
    said = [Turn("system", "Be brief."), Turn("user", "What?"), Turn("assistant", "A fig.")]
    for template in (Template(), Template(system="")):
        (text,), answers = template.render(said)
        assert text == "Be brief. USER: What? ASSISTANT: A fig.</s>"
        assert [text[start:stop] for _, start, stop in answers] == [" A fig.</s>"]
    assert Template().render(said[1:])[0][0].startswith(VICUNA_SYSTEM)


def test_several_images_are_rendered_where_they_are():
    said = [
        Turn("user", "Compare.", (0, 0)),
        Turn("assistant", "They differ."),
        Turn("user", "Is  like ?", (3, 9)),
        Turn("assistant", "As  is.", (3,)),
    ]
    chunks, answers = Template(system="").render(said)
    assert "<image>".join(chunks) == (
        "USER: <image><image>\nCompare. ASSISTANT: They differ.</s>"
        "USER: Is <image> like <image>? ASSISTANT: As <image> is.</s>"
    )
    replies = [chunks[at][start:stop] for at, start, stop in answers]
    assert replies == [" They differ.</s>", " As ", " is.</s>"]


def test_ids_of_several_images_are_those_of_the_chunks(encoder):
    said = [Turn("user", "Is  like ?", (3, 9)), Turn("assistant", "yes")]
    tokens = encoder.turns(said, [IMAGE, IMAGE[:2]])
    chunks, _ = encoder.template.render(said)
    begin = encoder.tokenizer.bos_token_id
    ids = [encoder.tokenizer(chunk).input_ids[1:] for chunk in chunks]
    assert tokens.ids.tolist() == [begin, *(number for chunk in ids for number in chunk)]
    assert tokens.places == (1 + len(ids[0]), 1 + len(ids[0]) + len(ids[1]))
    assert len(tokens) == len(tokens.ids) + len(IMAGE) + 2
    assert tokens.images_span == len(ids[1]) + len(IMAGE) + 2
    with pytest.raises(ValueError, match="1 images for 2 places"):
        encoder.turns(said, [IMAGE])
    with pytest.raises(ImageCutError, match="ends inside its images, which need"):
        Encoder(encoder.tokenizer, encoder.template, max_length=tokens.places[1]).turns(
            said, [IMAGE, IMAGE[:2]]
        )
