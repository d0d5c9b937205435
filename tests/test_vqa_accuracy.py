"""Wording and agreement of short answers: values by hand, and what holds for any wording."""

import itertools
import string

import numpy as np
import pytest

from xmas.evaluation.vqa_accuracy import agreement, evalai_answer, vqa_answer

PARTS = [
    *string.ascii_lowercase, *string.digits, *".,'-?!/;:()[]{}\"=+\\_><@`", " ", "  ", "\n", "\t",
    " the ", " a ", " an ", " two ", "none ", " ten", "dont ", " couldntve", "it's", "3.5", "1,000",
    "\N{LATIN CAPITAL LETTER E WITH ACUTE}",
]  # fmt: skip


def wordings(count, seed):
    """Made of letters, digits, marks, spaces and the words that the rules know."""
    rng = np.random.default_rng(seed)
    for length in rng.integers(0, 13, count):
        yield "".join(PARTS[place] for place in rng.integers(0, len(PARTS), length))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two.", "2"),
        ("a red  bus", "red bus"),
        ("It's 3.5", "it 's 3.5"),
        ("10,000", "10000"),
        ("U.S.A", "usa"),
        ("", ""),
        ("The", ""),
        ("none", "0"),
        ("ten and eleven", "10 and eleven"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),  # the wrong way round
        ("yall'd've", "y'all'd've"),
        ("t-shirt", "t shirt"),  # the mark touches no space
        ("t-shirt - red", "tshirt red"),  # it does, so it goes everywhere
        ("yes/no", "yes no"),
        ("stop!", "stop"),
        ("8:30", "8:30"),  # the colon is no mark
        ("5.", "5"),
        (".5", ".5"),
        ("1.a", "1a"),  # the look-behind is misspelt: the digit before does not hold the stop
        ("line one\nline two\t", "line 1 line 2"),
    ],
)
def test_an_answer_for_the_server(text, expected):
    assert evalai_answer(text) == expected


def test_only_32_full_stops_are_dropped():
    assert evalai_answer("a." * 40) == "a" * 32 + "a." * 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's", "it's"),  # the server's processor alone sets the 's apart
        ("10,000", "10000"),
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("10,000 red;blue", "10000 redblue"),  # digits about a comma: every mark is dropped
        ("What?", "what"),
    ],
)
def test_vqa_s_own_wording(text, expected):
    assert vqa_answer(text) == expected


@pytest.mark.parametrize("prepare", [evalai_answer, vqa_answer])
def test_any_wording_comes_out_bare(prepare):
    for text in wordings(3000, seed=1):
        found = prepare(text)
        assert found == found.lower() == " ".join(found.split()), text
        assert not set(found) & set(';/[]"{}()=+\\_-><@`,?!'), text
        assert not set(found.split()) & {"a", "an", "the", "none", "two", "dont"}, text
        for place, letter in enumerate(found):
            assert letter != "." or found[place + 1 : place + 2].isdigit(), text


@pytest.mark.parametrize("prepare", [evalai_answer, vqa_answer])
def test_spaces_around_capitals_and_articles_change_nothing(prepare):
    for text in wordings(1000, seed=2):
        if "?" not in text and "," not in text:  # a mark beside a space is dropped everywhere
            assert prepare(f" \n{text.upper()}\t") == prepare(text), text
        plain = "".join(letter for letter in text if letter.isalnum() or letter in " '")
        assert prepare(f"the {plain} an") == prepare(plain), text


@pytest.mark.parametrize(
    ("same", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)]
)
def test_agreement_with_ten_people(same, expected):
    answers = ["red"] * same + ["blue"] * (10 - same)
    assert agreement("red", answers) == pytest.approx(expected, abs=1e-12)


def test_agreement_is_the_mean_of_leaving_each_out():
    rng = np.random.default_rng(3)
    for _ in range(300):
        answers = [str(one) for one in rng.integers(0, 4, 10)]
        said = str(rng.integers(0, 5))
        left_out = [
            min(1, sum(other == said for other in answers[:one] + answers[one + 1 :]) / 3)
            for one in range(10)
        ]
        assert agreement(said, answers) == pytest.approx(sum(left_out) / 10)


def test_agreement_does_not_ask_for_an_order():
    answers = ["red", "red", "blue", "green", "red", "blue", "no", "no", "no", "no"]
    found = {agreement("blue", list(order)) for order in itertools.permutations(answers[:5])}
    assert len(found) == 1
