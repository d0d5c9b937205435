"""VizWiz: three questions with known agreement, both formats of questions, and the upload."""

import json

import pytest

from xmas.evaluation.benchmarks.vizwiz import VizWiz, VizWizVal
from xmas.evaluation.protocol import AnswerError
from xmas.store import Store

STORE = Store("nowhere")
END = (
    "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    "\nAnswer the question using a single word or phrase."
)
TEN = {
    "VizWiz_val_00000000.jpg": ("what IS this?", "other", ["Soda Can."] * 3 + ["pop"] * 7),
    "VizWiz_val_00000001.jpg": ("Which Color?", "unanswerable", ["unanswerable"] * 9 + ["red"]),
    "VizWiz_val_00000002.jpg": ("Is it on", "yes/no", ["yes"] * 10),
}


def write(tmp_path, kind=VizWizVal, official=True, **options):
    known = [
        {
            "image": image,
            "question": question,
            "answer_type": sort,
            "answers": [{"answer": said, "answer_confidence": "yes"} for said in answers],
        }
        for image, (question, sort, answers) in TEN.items()
    ]
    (tmp_path / "val.json").write_text(json.dumps(known))
    with (tmp_path / "llava.jsonl").open("w") as file:
        for image, (question, *_) in TEN.items():
            row = {"question_id": image, "image": image, "text": question.capitalize() + END}
            file.write(json.dumps(row | {"category": "default"}) + "\n")
    places = {
        "questions": str(tmp_path / ("val.json" if official else "llava.jsonl")),
        "images": str(tmp_path / "val"),
    }
    if kind is VizWizVal:
        places["annotations"] = str(tmp_path / "val.json")
    return kind(**({"count": None} | places | options))


def said(*texts):
    return [{"question_id": name, "text": text} for name, text in zip(TEN, texts, strict=True)]


def test_both_formats_ask_the_same(tmp_path):
    asked = write(tmp_path).asked(STORE)
    assert asked == write(tmp_path, official=False).asked(STORE)
    assert [one.prompt for one in asked] == [
        "What is this?" + END, "Which color?" + END, "Is it on" + END,
    ]  # fmt: skip
    assert asked[0].image == tmp_path / "val" / "VizWiz_val_00000000.jpg"


def test_scores_worked_out_by_hand(tmp_path):
    # "A soda can" is what three of ten said, once prepared: 0.9. "Unanswerable" is what nine said,
    # 1. "no" is nobody's: 0.
    scored = write(tmp_path).score(said("A soda can", "Unanswerable", "no"), STORE)
    assert scored.score == pytest.approx(190 / 3)
    assert scored.num == 3
    assert scored.detail["answer_type"] == pytest.approx(
        {"other": 90, "unanswerable": 100, "yes/no": 0}
    )
    assert scored.detail["said_unanswerable"] == pytest.approx(100 / 3)
    assert scored.detail["unanswerable"] == pytest.approx(100 / 3)


def test_unanimous_answers_are_normalised_too(tmp_path):
    """Unlike in VQA's own rule."""
    bench = write(tmp_path)
    path = tmp_path / "val.json"
    path.write_text(path.read_text().replace('"answer": "yes"', '"answer": "Yes."'))
    assert bench.score(said("", "", "yes"), STORE).score == pytest.approx(100 / 3)


def test_the_order_of_the_answers_does_not_matter(tmp_path):
    answers = said("pop", "red", "yes")
    one, other = (write(tmp_path).score(given, STORE) for given in (answers, answers[::-1]))
    assert (one.score, one.detail) == (other.score, other.detail)


@pytest.mark.parametrize("kind", [VizWizVal, VizWiz])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda lines: lines[1:],
            "1 of 3 questions have no answer, the first is 'VizWiz_val_0+.jpg",
        ),
        (lambda lines: [*lines, lines[0]], "line 4 answers 'VizWiz_val_0+.jpg' a second time"),
        (lambda lines: [*lines[1:], {"question_id": "x", "text": ""}], "line 3 answers 'x'"),
    ],
)
def test_missing_doubled_and_foreign_answers_are_refused(tmp_path, kind, change, message):
    bench = write(tmp_path, kind)
    answers = change(said("pop", "red", "yes"))
    with pytest.raises(AnswerError, match=message):
        bench.submit(answers, STORE, tmp_path) if kind is VizWiz else bench.score(answers, STORE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "no truth for VizWiz_val_00000000.jpg"),
        (lambda rows: [*rows, rows[1]], "VizWiz_val_00000001.jpg' is in the file twice"),
        (lambda rows: [rows[0] | {"answers": []}, *rows[1:]], "has 0 answers, expected 10"),
        (lambda rows: {"rows": rows}, "contains a dict, expected a list"),
    ],
)
def test_damaged_truth_is_refused(tmp_path, change, message):
    bench = write(tmp_path, official=False)
    path = tmp_path / "val.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(AnswerError, match=message):
        bench.score(said("pop", "red", "yes"), STORE)


def test_the_upload_has_every_image_with_its_prepared_answer(tmp_path):
    bench = write(tmp_path, VizWiz, official=False)
    path = bench.submit(said("A soda can.", "Unanswerable", "Two")[::-1], STORE, tmp_path)
    assert path.name == "vizwiz_test.json"
    assert json.loads(path.read_text()) == [
        {"image": "VizWiz_val_00000000.jpg", "answer": "soda can"},
        {"image": "VizWiz_val_00000001.jpg", "answer": "unanswerable"},
        {"image": "VizWiz_val_00000002.jpg", "answer": "2"},
    ]


def test_the_test_split_is_not_scored_and_the_proxy_not_called_by_its_name(tmp_path):
    assert (VizWiz.name, VizWizVal.name) == ("vizwiz", "vizwiz_val")
    with pytest.raises(AnswerError, match="answers of test are not public; goal=submission"):
        write(tmp_path, VizWiz).score(said("", "", ""), STORE)
    with pytest.raises(AnswerError, match="test is a test split; benchmark=vizwiz asks it"):
        write(tmp_path, split="test").score(said("", "", ""), STORE)


@pytest.mark.parametrize(("kind", "count"), [(VizWizVal, 4319), (VizWiz, 8000)])
def test_another_number_of_questions_than_the_official_one_is_refused(tmp_path, kind, count):
    with pytest.raises(AnswerError, match=f"3 found, {count} expected"):
        write(tmp_path, kind, count=count).asked(STORE)
