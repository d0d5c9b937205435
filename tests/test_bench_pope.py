"""POPE: two small categories with known F1, and the files that gave wrong numbers elsewhere."""

import json
from pathlib import Path

import pytest

from xmas.evaluation.benchmarks.pope import OFFICIAL, Pope, measures
from xmas.evaluation.protocol import AnswerError
from xmas.store import Store

STORE = Store("nowhere")
SUFFIX = "\nAnswer the question using a single word or phrase."
STEP = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}


def write(tmp_path, labels, wording="Is there {} in the image?"):
    """The two kinds of files for {category: [(object, label), ...]}, two questions an image."""
    (tmp_path / "coco").mkdir(exist_ok=True)
    asked = []
    for category, rows in labels.items():
        with (tmp_path / "coco" / f"coco_pope_{category}.json").open("w") as file:
            for at, (thing, label) in enumerate(rows, start=1):
                row = {"question_id": at, "image": f"{at // 2}.jpg"}
                text = f"Is there {thing} in the image?"
                file.write(json.dumps({**row, "text": text, "label": label}) + "\n")
                row["question_id"] += STEP[category]
                text = wording.format(thing) + SUFFIX
                asked.append(row | {"text": text, "category": category})
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    return Pope(
        questions=str(tmp_path / "questions.jsonl"),
        annotations=str(tmp_path / "coco"),
        images=str(tmp_path / "val2014"),
        count=None,
    )


SMALL = {
    "adversarial": [("a cat", "yes"), ("a dog", "yes"), ("a cup", "no"), ("a bus", "no")],
    "popular": [("a car", "yes"), ("a bed", "no")],
}


def said(*texts):
    ids = [1, 2, 3, 4, 20_000_001, 20_000_002]
    return [{"question_id": name, "text": text} for name, text in zip(ids, texts, strict=True)]


def test_prompts_and_pictures_are_those_of_the_official_file(tmp_path):
    last = write(tmp_path, SMALL).asked(STORE)[-1]
    assert last.question_id == 20_000_002
    assert last.prompt == (
        "Is there a bed in the image?\nAnswer the question using a single word or phrase."
    )
    assert last.image == tmp_path / "val2014" / "1.jpg"


def test_the_headline_is_the_mean_of_the_f1_of_the_categories(tmp_path):
    # adversarial: yes, no, NO, no is said = yes, no, yes, no: 1 hit of 2 claims and 2 there: F1 50.
    # popular: Yes. and an empty answer = yes, yes: 1 hit of 2 claims and 1 there: F1 66.7.
    scored = write(tmp_path, SMALL).score(said("yes, it is", "No", "NO", "no", "Yes.", ""), STORE)
    assert scored.score == pytest.approx((50 + 200 / 3) / 2)
    assert scored.num == 6
    assert scored.detail["adversarial"] == {
        "accuracy": 50, "precision": 50, "recall": 50, "f1": 50, "yes_ratio": 50,
    }  # fmt: skip
    assert scored.detail["popular"] == pytest.approx(
        {"accuracy": 50, "precision": 50, "recall": 100, "f1": 200 / 3, "yes_ratio": 100}
    )
    assert scored.outcomes.gained.tolist() == [[2, 0], [0, 0], [0, 0], [0, 0], [0, 2], [0, 0]]
    assert scored.outcomes.counted.tolist() == [[2, 0], [1, 0], [1, 0], [0, 0], [0, 2], [0, 1]]
    assert scored.outcomes.pictures.tolist() == [0, 1, 1, 2, 0, 1]  # of both categories


def test_answers_in_another_order_score_the_same(tmp_path):
    answers = said("yes", "yes", "no", "no", "yes", "no")
    assert write(tmp_path, SMALL).score(answers[::-1], STORE).score == 100


def test_no_yes_at_all_is_an_f1_of_zero():
    assert measures([(False, True), (False, False)]) == {
        "accuracy": 50, "precision": 0, "recall": 0, "f1": 0, "yes_ratio": 0,
    }  # fmt: skip


def test_the_wording_that_was_corrected_later_is_accepted(tmp_path):
    pope = write(
        tmp_path,
        {"popular": [("an umbrella", "yes"), ("a oven", "no")]},
        "Is there {} in the imange?",
    )
    answers = [
        {"question_id": 20_000_000 + at, "text": text} for at, text in ((1, "Yes"), (2, "No"))
    ]
    assert pope.score(answers, STORE).score == 100


def test_a_label_for_another_question_is_refused(tmp_path):
    pope = write(tmp_path, SMALL)
    path = Path(str(pope.annotations)) / "coco_pope_popular.json"
    path.write_text(path.read_text().replace("a bed", "a sofa"))
    with pytest.raises(AnswerError, match=r"question 20000002 .*a bed.* the label is for .*a sofa"):
        pope.score(said("yes", "yes", "no", "no", "yes", "no"), STORE)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"question_id": 2', '"question_id": 9', "question 20000002 on 1.jpg has no label"),
        ('"label": "no"', '"label": "none"', "label 'none', expected 'yes' or 'no'"),
        ('"label": "no"', '"answer": "no"', "line 2 has no `label`"),
        ('"question_id": 2, "image": "1.jpg"', '"question_id": 1, "image": "0.jpg"', "twice"),
    ],
)
def test_a_damaged_label_file_is_refused(tmp_path, old, new, message):
    pope = write(tmp_path, SMALL)
    path = Path(str(pope.annotations)) / "coco_pope_popular.json"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(AnswerError, match=message):
        pope.score(said("yes", "yes", "no", "no", "yes", "no"), STORE)


def test_a_category_without_labels_is_refused(tmp_path):
    pope = write(tmp_path, SMALL)
    (Path(str(pope.annotations)) / "coco_pope_popular.json").unlink()
    with pytest.raises(AnswerError, match="no such file, but category 'popular' is asked"):
        pope.score(said("yes", "yes", "no", "no", "yes", "no"), STORE)


def test_the_later_random_file_of_3000_rows_is_refused_by_name(tmp_path):
    full = {name: [("a cat", "yes")] * count for name, count in OFFICIAL.items()}
    pope = write(tmp_path, full)
    later = Path(str(pope.annotations)) / "coco_pope_random.json"
    with later.open("a") as file:
        for at in range(2911, 3001):
            row = {"question_id": at, "image": "x.jpg", "text": "Is there a cat?", "label": "no"}
            file.write(json.dumps(row) + "\n")
    official = Pope(pope.questions, pope.annotations, pope.images)
    answers = [{"question_id": asked.question_id, "text": "Yes"} for asked in official.asked(STORE)]
    with pytest.raises(
        AnswerError, match=r"coco_pope_random.json: labels: 3000 found, 2910 expec.*e3e39262"
    ):
        official.score(answers, STORE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "1 of 6 questions have no answer, the first is 20000002"),
        (lambda lines: [*lines, lines[0]], "line 7 answers 1 a second time"),
        (lambda lines: [*lines[1:], {"question_id": 5, "text": ""}], "line 6 answers 5"),
    ],
)
def test_missing_doubled_and_foreign_answers_are_refused(tmp_path, change, message):
    with pytest.raises(AnswerError, match=message):
        write(tmp_path, SMALL).score(change(said("yes", "yes", "no", "no", "yes", "no")), STORE)


def test_another_number_of_questions_than_the_official_one_is_refused(tmp_path):
    pope = write(tmp_path, SMALL)
    with pytest.raises(AnswerError, match="6 found, 8910 expected"):
        Pope(pope.questions, pope.annotations, pope.images).asked(STORE)
