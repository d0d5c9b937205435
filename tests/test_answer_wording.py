"""The wording of answers, against values worked out by hand from the official rules."""

import json

import pytest

from xmas.evaluation.benchmarks.gqa import gqa_answer
from xmas.evaluation.benchmarks.mmbench import option_letter
from xmas.evaluation.benchmarks.mme import mme_answer
from xmas.evaluation.benchmarks.pope import pope_answer
from xmas.evaluation.json_files import answer_lines, by_key, json_lines
from xmas.evaluation.protocol import AnswerError

PETS = {"A": "a cat", "B": "a dog", "C": "a bat", "D": "a Manx cat"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", "yes"),
        ("YES...", "yes"),
        ("yes. ", "yes. "),  # the space is not forgiven
        ("yes, it is", "yes, it is"),
        ("3.5", "3.5"),
        ("", ""),
    ],
)
def test_gqa_drops_full_stops_at_the_end_and_case(text, expected):
    assert gqa_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No", "no"),
        ("no, there is none", "no"),
        ("There is not a dog", "no"),
        ("Yes.", "yes"),
        ("yes, it is", "yes"),
        ("NO", "yes"),  # only No and no are words for it
        ("no!", "yes"),
        ("nothing there", "yes"),
        ("I see a cat. No dog", "yes"),  # only the first sentence counts
        ("", "yes"),
    ],
)
def test_pope_takes_everything_for_yes_that_has_no_word_for_no(text, expected):
    assert pope_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes", "yes"),
        ("NO.", "no"),
        ("yes, it is", "yes"),
        (" yes", "yes"),
        ("Nope", "no"),
        ("know", "no"),
        ("I say yes", "other"),
        ("It is not", "other"),
        ("", "other"),
    ],
)
def test_mme_reads_four_characters(text, expected):
    assert mme_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C)", "C"),
        ("The answer is D.", "D"),
        ("A dog runs on the beach", "B"),  # A is too early for an answer, the text tells
        ("It must be a DOG", "B"),
        ("A or B", None),  # two letters, no text
        ("b", None),  # wrong case
        ("a manx cat", "D"),  # "a cat" is not contained
        ("a cat or a dog", None),
        ("E", None),
        ("Z", None),
        ("Z, though I see a dog", None),  # a refusal is not read further
        ("", None),
        ("It is a dog" + " indeed" * 9, None),  # longer than twice the options' 26 characters
    ],
)
def test_an_option_is_found_by_its_letter_then_by_its_text(text, expected):
    assert option_letter(text, PETS) == expected


def test_an_option_beyond_those_offered_is_no_option():
    assert option_letter("C", {"A": "wax", "B": "no wax"}) is None


def test_a_line_without_a_key_is_named_with_file_line_and_value(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"question_id": 1, "text": "?"}) + "\n\n" + '{"question_id": 7}\n')
    with pytest.raises(AnswerError, match=r"questions.jsonl: line 3 has no `text`: .*7"):
        json_lines(path, "question_id", "text")


def test_a_line_that_is_no_json_or_no_object_is_named(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("{'question_id': 1}\n")
    with pytest.raises(AnswerError, match="line 1 is not JSON"):
        json_lines(path, "question_id")
    path.write_text("[1]\n")
    with pytest.raises(AnswerError, match=r"line 1 has no `question_id`: \[1\]"):
        json_lines(path, "question_id")


def test_spaces_around_the_object_of_a_line_are_allowed_and_nothing_else(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('  {"question_id": 1} \t\n \n{"question_id": 2}')
    assert json_lines(path, "question_id") == [{"question_id": 1}, {"question_id": 2}]
    path.write_text('{"question_id": 1}\n{"question_id": 2},\n')
    with pytest.raises(AnswerError, match="line 2 is not JSON: Extra data"):
        json_lines(path, "question_id")


def test_rows_that_share_a_key_and_empty_files_are_refused(tmp_path):
    rows = [{"question_id": 1}, {"question_id": 1}]
    with pytest.raises(AnswerError, match="1 is in the file twice"):
        by_key(rows, lambda row: row["question_id"], tmp_path)
    with pytest.raises(AnswerError, match="has no rows"):
        by_key([], lambda row: row["question_id"], tmp_path)


def test_an_answer_without_text_is_named():
    with pytest.raises(AnswerError, match="gqa: answer line 1 has no `text`"):
        answer_lines([{"question_id": 1}], "gqa")
    with pytest.raises(AnswerError, match="gqa: answer line 1: `text` is None"):
        answer_lines([{"question_id": 1, "text": None}], "gqa")
