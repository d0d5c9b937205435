"""GQA: four questions whose scores are worked out by hand."""

import json
from pathlib import Path

import pytest

from xmas.evaluation.benchmarks.gqa import Gqa
from xmas.evaluation.protocol import AnswerError
from xmas.store import Store

STORE = Store("nowhere")
SUFFIX = "\nAnswer the question using a single word or phrase."


@pytest.fixture
def gqa(tmp_path):
    asked = {
        "101": "Is it overcast?",
        "102": "Who wears the dress?",
        "103": "Is it red?",
        "104": "?",
    }
    with (tmp_path / "questions.jsonl").open("w") as file:
        for name, text in asked.items():
            row = {"question_id": name, "image": f"n{name}.jpg", "text": text + SUFFIX}
            file.write(json.dumps(row | {"category": "default"}) + "\n")
    truth = {
        "101": {"answer": "yes", "types": {"structural": "verify", "semantic": "global"}},
        "102": {"answer": "woman", "types": {"structural": "query", "semantic": "rel"}},
        "103": {"answer": "yes", "types": {"structural": "verify", "semantic": "attr"}},
        "104": {"answer": "left"},
        "999": {"answer": "never asked"},
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return Gqa(
        questions=str(tmp_path / "questions.jsonl"),
        annotations=str(tmp_path / "truth.json"),
        images=str(tmp_path / "images"),
        count=None,
    )


def said(*texts):
    return [{"question_id": str(101 + at), "text": text} for at, text in enumerate(texts)]


def test_prompts_are_the_text_of_the_official_file(gqa):
    first = gqa.asked(STORE)[0]
    assert first.question_id == "101"
    assert first.prompt == ("Is it overcast?\nAnswer the question using a single word or phrase.")
    assert first.image == Path(gqa.images) / "n101.jpg"
    assert first.extra == {}
    assert len(gqa.asked(STORE)) == 4


def test_a_sentence_is_wrong_where_its_first_word_is_right(gqa):
    scored = gqa.score(said("Yes.", "WOMAN", "yes, it is", ""), STORE)
    assert scored.score == 50
    assert scored.num == 4
    assert scored.detail == {
        "binary": 50,
        "open": 100,
        "semantic: attr": 0,
        "semantic: global": 100,
        "semantic: rel": 100,
        "structural: query": 100,
        "structural: verify": 50,
    }
    outcomes = gqa.score(said("Yes.", "WOMAN", "yes, it is", ""), STORE).outcomes
    assert outcomes.keys.tolist() == ["101", "102", "103", "104"]
    assert outcomes.gained[:, 0].tolist() == [1, 1, 0, 0]
    assert outcomes.pictures.tolist() == [0, 1, 2, 3]


def test_the_order_of_the_answers_does_not_matter(gqa):
    answers = said("yes", "woman", "yes", "left")
    assert gqa.score(answers[::-1], STORE).score == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "1 of 4 questions have no answer, the first is '101'"),
        (lambda lines: [*lines, lines[0]], "line 5 answers '101' a second time"),
        (lambda lines: [*lines[1:], {"question_id": "7", "text": ""}], "line 4 answers '7'"),
    ],
)
def test_missing_doubled_and_foreign_answers_are_refused(gqa, change, message):
    with pytest.raises(AnswerError, match=message):
        gqa.score(change(said("yes", "woman", "yes", "left")), STORE)


def test_a_question_without_truth_is_named(gqa):
    Path(gqa.annotations).write_text('{"101": {"answer": "yes"}, "102": {}}')
    with pytest.raises(AnswerError, match=r"truth.json: question '102' has no `answer`"):
        gqa.score(said("yes", "woman", "yes", "left"), STORE)
    Path(gqa.annotations).write_text('{"101": {"answer": "yes"}}')
    with pytest.raises(AnswerError, match=r"truth.json: no truth for question '102'"):
        gqa.score(said("yes", "woman", "yes", "left"), STORE)
    Path(gqa.annotations).write_text("[]")
    with pytest.raises(AnswerError, match="contains a list, expected an object"):
        gqa.score(said("yes", "woman", "yes", "left"), STORE)


@pytest.mark.parametrize(
    ("types", "text"),
    [
        ("null", "None"),
        ('["verify"]', r"\['verify'\]"),
        ('{"semantic": ["rel"]}', r"\{'semantic': \['rel'\]\}"),
    ],
)
def test_types_that_are_none_are_named_with_their_question(gqa, types, text):
    path = Path(gqa.annotations)
    path.write_text(
        path.read_text().replace('{"answer": "left"}', f'{{"answer": "left", "types": {types}}}')
    )
    with pytest.raises(AnswerError, match=rf"truth.json: question '104' has `types` {text}, "):
        gqa.score(said("yes", "woman", "yes", "left"), STORE)


def test_another_number_of_questions_than_the_official_one_is_refused(gqa):
    official = Gqa(gqa.questions, gqa.annotations, gqa.images)
    with pytest.raises(AnswerError, match="4 found, 12578 expected"):
        official.asked(STORE)
