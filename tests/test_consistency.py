"""VIC and RIC: by hand, and by transformers' own forward passes of texts that are written out."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from toy import ROWS, TEXT_ONLY, Toy, declared, recorded
from transformers import AutoTokenizer

from xmas.data.turns import ASSISTANT, SYSTEM, USER, Turn, turns_of_rounds
from xmas.features.losses.answer_scorer import ScorerSettings
from xmas.features.losses.consistency import FROM_ANSWER, FROM_IMAGE, Consistency
from xmas.features.losses.rewritten import Rewritten, answers_alone, question_rounds
from xmas.features.losses.turn_losses import mean_ratio, turn_losses, turn_numbers
from xmas.models.chat.labels import Tokens
from xmas.models.vlm import load
from xmas.training.starts.unfitted import Unfitted

NAN = float("nan")
HOW = ScorerSettings(batch_tokens=512, shard_rows=11)
IMAGES = [row for row in range(ROWS) if row not in TEXT_ONLY]


@pytest.fixture(scope="module")
def stage(toy: Toy) -> Consistency:
    """Under the start point, which costs no fit."""
    proxy = toy.proxy
    model = Unfitted(
        toy.pool, toy.start, proxy.template, True, proxy.max_length, hardware=proxy.hardware
    )
    return Consistency(model, how=HOW)


@pytest.fixture(scope="module")
def values(toy: Toy, stage) -> np.ndarray:
    return np.load(toy.store.get(stage) / "values.npy")


# Turns.


def test_turns_are_runs_of_labelled_tokens():
    ids = np.arange(7, dtype=np.int32)
    labelled = np.array([1, 0, 1, 1, 0, 0, 1], dtype=bool)
    assert turn_numbers(Tokens(ids, labelled)).tolist() == [1, 1, 2]  # nothing predicts the first
    image = (np.zeros(3, dtype=np.int32),)
    assert turn_numbers(Tokens(ids, labelled, (0,), image)).tolist() == [0, 1, 1, 2]
    assert turn_numbers(Tokens(ids, labelled, (4,), image)).tolist() == [1, 1, 2]
    assert turn_numbers(Tokens(ids, ~labelled | True)).tolist() == [0] * 6
    assert turn_numbers(Tokens(ids, np.zeros(7, dtype=bool))).tolist() == []


def test_the_loss_of_a_turn_is_a_weighted_mean():
    losses, numbers = np.array([1.0, 3, 5, 2]), np.array([0, 0, 2, 2])
    np.testing.assert_array_equal(turn_losses(losses, numbers), [2, NAN, 3.5])
    weights = np.array([1.0, 0.1, 0.1, 1])
    expected = [1.3 / 1.1, NAN, 2.5 / 1.1]
    np.testing.assert_allclose(turn_losses(losses, numbers, weights), expected, rtol=1e-12)
    assert turn_losses(np.zeros(0), np.zeros(0, dtype=np.int64)).tolist() == []


def test_ratios_are_averaged_over_turns_that_both_have():
    two = np.log([2.0, 6.0])
    assert mean_ratio(two, np.log([1.0, 2.0])) == pytest.approx(2.5)  # of 2 and 3
    assert mean_ratio(np.append(two, 9.0), np.log([1.0, 2.0])) == pytest.approx(2.5)  # one is cut
    assert mean_ratio(two, np.array([0.0, NAN])) == pytest.approx(2)
    assert np.isnan(mean_ratio(np.zeros(0), two))


# Rewritten conversations.


def test_the_model_says_the_question():
    turns = [
        Turn(SYSTEM, "Be brief."),
        *turns_of_rounds([("Colour?", "red"), ("Shape?", "disc")], image=True),
    ]
    asked = question_rounds(turns, "Ask.")
    assert asked == [
        Turn(SYSTEM, "Be brief."),
        Turn(USER, "Ask.", (0,)),
        Turn(ASSISTANT, "Colour?"),
        Turn(USER, "Ask."),
        Turn(ASSISTANT, "Shape?"),
    ]
    texts = [turn.text for turn in question_rounds(turns, "What has {answer}?")]
    assert texts == ["Be brief.", "What has red?", "Colour?", "What has disc?", "Shape?"]
    braces = turns_of_rounds([("{x}?", "{answer} {}")], image=False)
    assert question_rounds(braces, "To {answer}!")[0].text == "To {answer} {}!"


def test_answers_alone_follow_the_images():
    turns = turns_of_rounds([("Colour?", "red"), ("Shape?", "disc")], image=True)
    assert answers_alone(turns) == [Turn(USER, "", (0,)), Turn(ASSISTANT, "red disc")]
    inside = [Turn(USER, "Draw.", (0, 5)), Turn(ASSISTANT, "Here", (4,))]
    assert answers_alone(inside) == [Turn(USER, "", (0, 0, 0)), Turn(ASSISTANT, "Here")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"how": "blind"}, "rewriting 'blind': expected one of question_from_image"),
        ({"ask": "With {answer}?"}, "question_from_image asks 'With {answer}.*in no other"),
        ({"how": "question_from_answer", "ask": "Ask."}, "question_from_answer asks 'Ask.'"),
    ],
)
def test_what_does_not_ask_for_the_rewriting_is_refused(toy, options, message):
    with pytest.raises(ValueError, match=message):
        Rewritten(toy.pool, "a tokenizer", **options)


# The pass.


def own_losses(parts, tokenizer, image: Image.Image | None, rounds: list[tuple[str, str]]):
    """The mean loss of every answer, by transformers' forward of the whole text."""
    model = parts.model
    pixels = None if image is None else parts.processor([image])
    grid = model.config.vision_config.image_size // model.config.vision_config.patch_size
    ids, spans = [], []
    for number, (question, answer) in enumerate(rounds):
        if number == 0:  # without the image all but its tokens stays
            ids += tokenizer("USER: ")["input_ids"]
            ids += [model.config.image_token_id] * grid**2 * (image is not None)
            ids += plain(tokenizer, f"\n{question} ASSISTANT:")
        else:
            ids += plain(tokenizer, f"USER: {question} ASSISTANT:")
        start = len(ids)
        ids += plain(tokenizer, f" {answer}</s>")
        spans.append((start, len(ids)))
    with torch.no_grad():
        more = {} if pixels is None else {"pixel_values": pixels}
        logits = model(input_ids=torch.tensor([ids]), **more).logits[0]
    each = torch.nn.functional.cross_entropy(
        logits[:-1], torch.tensor(ids[1:]), reduction="none"
    ).double()
    return np.array([each[start - 1 : stop - 1].mean() for start, stop in spans])


def plain(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("row", [0, 1, 9, 25])  # 0 and 25 have three rounds
def test_the_losses_are_those_of_transformers(toy, stage, values, row):
    folder = toy.store.get(toy.start)
    parts, tokenizer = load(folder), AutoTokenizer.from_pretrained(folder)
    parts.model.eval()
    examples = toy.pool.open()
    image = Image.open(examples.images_of(row)[0]).convert("RGB")
    rounds = examples.conversation(row)
    asked = [(FROM_IMAGE, question) for question, _ in rounds]
    told = [(FROM_ANSWER.replace("{answer}", answer), question) for question, answer in rounds]
    seen, blind, from_image, from_answer = (
        own_losses(parts, tokenizer, image if has_image else None, each)
        for each, has_image in ((rounds, True), (rounds, False), (asked, True), (told, True))
    )
    expected = [np.exp(blind - seen).mean(), np.exp(from_image - from_answer).mean()]
    np.testing.assert_allclose(values[row], expected, rtol=2e-4)


def test_rows_without_an_image_have_no_value(values):
    assert (values.shape, values.dtype) == ((ROWS, 2), np.float32)
    assert np.isnan(values[list(TEXT_ONLY)]).all()
    assert np.isfinite(values[IMAGES]).all()
    assert len(np.unique(values[IMAGES], axis=0)) > 20


def test_the_batch_does_not_matter(toy, stage, values, tmp_path):
    other = dataclasses.replace(stage, how=ScorerSettings(batch_tokens=1, shard_rows=40))
    other.compute(toy.store, tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "values.npy"), values, rtol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["values.npy"]


def test_what_it_asks_of_the_store_is_declared(toy, stage, values):
    assert recorded(toy.store, stage) == declared(stage)


def test_no_other_weights(stage):
    with pytest.raises(ValueError, match="weights='tags': expected one of none, pos"):
        dataclasses.replace(stage, weights="tags")
