"""VQAv2: four questions with known agreement, both formats of questions, and the upload."""

import json
from pathlib import Path

import pytest

from xmas.evaluation.benchmarks.vqav2 import VqaV2, VqaV2Val, accuracy
from xmas.evaluation.protocol import SHORT, AnswerError
from xmas.store import Store

STORE = Store("nowhere")
TEN = {  # question id: type of answer, type of question, ten answers
    9001: ("yes/no", "is this", ["yes"] * 10),
    9002: ("number", "how many", ["2"] * 7 + ["two"] * 2 + ["3"]),
    42000: ("other", "what color", ["red"] * 2 + ["blue"] * 8),
    42001: ("other", "what is", ["The Dog"] * 10),
}


def write(tmp_path, official=False, **options):
    asked, owners, truth = [], [], []
    for name, (answer_type, question_type, answers) in TEN.items():
        image = name // 1000
        text = f"Question {name}?"
        asked.append(
            {
                "question_id": name,
                "image": f"COCO_val2014_{image:012d}.jpg",
                "text": text + SHORT,
                "category": "default",
            }
        )
        owners.append({"image_id": image, "question": text, "question_id": name})
        truth.append(
            {
                "question_id": name,
                "image_id": image,
                "question_type": question_type,
                "answer_type": answer_type,
                "answers": [{"answer": said, "answer_id": n} for n, said in enumerate(answers, 1)],
            }
        )
    llava, json_file = tmp_path / "val.jsonl", tmp_path / "questions.json"
    llava.write_text("".join(json.dumps(row) + "\n" for row in asked))
    json_file.write_text(json.dumps({"data_subtype": "val2014", "questions": owners}))
    (tmp_path / "truth.json").write_text(json.dumps({"annotations": truth}))
    return VqaV2Val(
        str(json_file if official else llava),
        str(tmp_path / "truth.json"),
        str(tmp_path / "images"),
        **({"count": None} | options),
    )


def said(*texts):
    return [{"question_id": name, "text": text} for name, text in zip(TEN, texts, strict=True)]


def test_both_formats_ask_the_same(tmp_path):
    asked = write(tmp_path).asked(STORE)
    assert asked == write(tmp_path, official=True).asked(STORE)
    assert asked[0].question_id == 9001
    assert asked[0].prompt == ("Question 9001?\nAnswer the question using a single word or phrase.")
    assert asked[2].image == tmp_path / "images" / "COCO_val2014_000000000042.jpg"


def test_scores_worked_out_by_hand(tmp_path):
    # 9001: "Yes." is prepared to "yes", all agree: 1. 9002: "Two" is 2, as are nine of ten: 1.
    # 42000: two of ten said red: 0.6. 42001: all said "The Dog" to the letter, so nothing is
    # normalised, and "dog", which the server is sent, is not that: 0.
    scored = write(tmp_path).score(said("Yes.", "Two", "red", "The Dog"), STORE)
    assert scored.score == pytest.approx(65)
    assert scored.num == 4
    assert scored.detail == {
        "answer_type": pytest.approx({"number": 100, "other": 30, "yes/no": 100}),
        "question_type": pytest.approx(
            {"how many": 100, "is this": 100, "what color": 60, "what is": 0}
        ),
    }
    assert scored.outcomes.pictures.tolist() == [0, 0, 1, 1]
    official = write(tmp_path, official=True).score(said("Yes.", "Two", "red", "The Dog"), STORE)
    assert official.outcomes.pictures.tolist() == [0, 0, 1, 1]


def test_the_order_of_the_answers_does_not_matter(tmp_path):
    answers = said("yes", "3", "blue", "a dog")
    one, other = (write(tmp_path).score(given, STORE) for given in (answers, answers[::-1]))
    assert (one.score, one.detail) == (other.score, other.detail)


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ("2", ["two"] * 10, 0),  # unanimous: nothing is normalised
        ("2", ["two"] * 9 + ["3"], 1),
        ("dont know", ["don't know"] * 9 + ["no"], 1),
        ("red", ["red\n"] * 10, 1),  # but for line ends and spaces around
    ],
)
def test_both_sides_are_normalised_unless_all_agree(text, answers, expected):
    assert accuracy(text, answers) == expected


def test_a_split_of_images_needs_a_name_of_its_own(tmp_path):
    only = tmp_path / "instances.json"
    only.write_text(json.dumps({"images": [{"id": 42}, {"id": 7}]}))
    part = write(tmp_path, only=str(only), split="val2017")
    assert [one.question_id for one in part.asked(STORE)] == [42000, 42001]
    scored = part.score(said("", "", "blue", "The Dog")[2:], STORE)
    assert (scored.score, scored.num) == (50, 2)
    with pytest.raises(AnswerError, match="needs another name in `split`"):
        write(tmp_path, only=str(only)).asked(STORE)
    only.write_text(json.dumps({"images": [{"id": 7}]}))
    with pytest.raises(AnswerError, match="lists none of the questions' images"):
        part.asked(STORE)


def test_images_that_the_mix_trains_on_are_warned_of(tmp_path, caplog):
    write(tmp_path).score(said("", "", "", ""), STORE)
    assert "most of val2014's images are in COCO's train2017" in caplog.text


@pytest.mark.parametrize("split", ["test-dev2015", "test2015"])
def test_the_proxy_never_goes_by_the_name_of_a_of_the_test_split(tmp_path, split):
    assert VqaV2Val.name == "vqav2_val" != VqaV2.name
    with pytest.raises(AnswerError, match="is a test split; benchmark=vqav2 asks it"):
        write(tmp_path, split=split).score(said("", "", "", ""), STORE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "1 of 4 questions have no answer, the first is 9001"),
        (lambda lines: [*lines, lines[0]], "line 5 answers 9001 a second time"),
        (lambda lines: [*lines[1:], {"question_id": 5, "text": ""}], "line 4 answers 5"),
        (lambda lines: [*lines[1:], {"question_id": "x", "text": ""}], "'x' is not a number"),
    ],
)
def test_missing_doubled_and_foreign_answers_are_refused(tmp_path, change, message):
    with pytest.raises(AnswerError, match=message):
        write(tmp_path).score(change(said("yes", "2", "red", "dog")), STORE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "truth.json: no truth for question 9001"),
        (lambda rows: [*rows, rows[0]], "truth.json: 9001 is in the file twice"),
        (lambda rows: [rows[0] | {"answers": rows[0]["answers"][1:]}, *rows[1:]],
         "question 9001 has 9 answers, expected 10"),
        (lambda rows: [{"question_id": 9001}], "row 0 has no `answers`"),
    ],
)  # fmt: skip
def test_damaged_truth_is_refused(tmp_path, change, message):
    bench = write(tmp_path)
    path = tmp_path / "truth.json"
    rows = change(json.loads(path.read_text())["annotations"])
    path.write_text(json.dumps({"annotations": rows}))
    with pytest.raises(AnswerError, match=message):
        bench.score(said("yes", "2", "red", "dog"), STORE)


def test_another_number_of_questions_than_the_official_one_is_refused(tmp_path):
    with pytest.raises(
        AnswerError, match="4 found, 214354 expected; take the questions of val2014"
    ):
        write(tmp_path, count=214_354).asked(STORE)


# The test split.


def of_the_test_split(tmp_path, **options):
    everything = tmp_path / "everything.json"
    listed = [
        {"question_id": name, "question": "?", "image_id": 1}
        for name in (7, 9002, 42001, 9001, 42000)
    ]
    everything.write_text(json.dumps({"data_subtype": "test2015", "questions": listed}))
    given = {"count": None, "total": None} | options
    return VqaV2(write(tmp_path).questions, str(everything), str(tmp_path / "images"), **given)


def test_the_upload_has_every_test_question_in_the_owners_order(tmp_path):
    bench = of_the_test_split(tmp_path)
    path = bench.submit(said("Yes.", "Two", "a red  bus", "It's 3.5")[::-1], STORE, tmp_path)
    assert path.name == "vqav2_test-dev2015.json"
    assert json.loads(path.read_text()) == [
        {"question_id": 7, "answer": ""},
        {"question_id": 9002, "answer": "2"},
        {"question_id": 42001, "answer": "it 's 3.5"},
        {"question_id": 9001, "answer": "yes"},
        {"question_id": 42000, "answer": "red bus"},
    ]


def test_an_incomplete_upload_is_not_written(tmp_path):
    with pytest.raises(AnswerError, match="1 of 4 questions have no answer"):
        of_the_test_split(tmp_path).submit(said("", "", "", "")[1:], STORE, tmp_path)
    with pytest.raises(AnswerError, match=r"everything.json: questions: 5 found, 447793 expected"):
        of_the_test_split(tmp_path, total=447_793).submit(said("", "", "", ""), STORE, tmp_path)
    bench = of_the_test_split(tmp_path)
    path = Path(str(bench.everything))
    path.write_text(path.read_text().replace("9002", "9003"))
    with pytest.raises(AnswerError, match="question 9002 of test-dev2015 is not in it"):
        bench.submit(said("", "", "", ""), STORE, tmp_path)


def test_the_test_split_is_not_scored(tmp_path):
    with pytest.raises(
        AnswerError, match="answers of test-dev2015 are not public; goal=submission"
    ):
        of_the_test_split(tmp_path).score(said("", "", "", ""), STORE)
