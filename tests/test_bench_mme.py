"""MME: two tasks of two images, in the three layouts the truth comes in."""

import json

import pytest

from xmas.evaluation.benchmarks.mme import COGNITION, PERCEPTION, Mme
from xmas.evaluation.protocol import AnswerError
from xmas.store import Store

STORE = Store("nowhere")
SUFFIX = "\nAnswer the question using a single word or phrase."
ASKED = {  # task, image: question, truth
    ("count", "0001"): [("Is there one cup?", "Yes"), ("Are there  two cups?", "No")],
    ("count", "0002"): [("Is there one dog?", "No"), ("Are there two dogs?", "Yes")],
    ("artwork", "10002"): [("Is this a painting?", "Yes"), ("Is this a tapestry?", "No")],
}
OFFICIAL = " Please answer yes or no."


def write(tmp_path, layout, asked=ASKED, **options):
    rows = []
    for (task, image), pair in asked.items():
        place = f"{task}/images/{image}.jpg" if task == "artwork" else f"{task}/{image}.png"
        for question, truth in pair:
            text = " ".join(question.split()) + SUFFIX
            rows.append({"question_id": place, "image": place, "text": text, "category": task})
            end = question + OFFICIAL
            if layout == "results":
                file, line = tmp_path / f"{task}.txt", f"{image}.jpg\t{end}\t{truth}\n"
            else:
                inner = "questions_answers_YN" if layout == "release" else "."
                file, line = tmp_path / task / inner / f"{image}.txt", f"{end}\t{truth}\n"
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a") as opened:
                opened.write(line)
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"tasks": ("count", "artwork"), "count": None} | options
    return Mme(
        questions=str(tmp_path / "questions.jsonl"),
        annotations=str(tmp_path),
        images=str(tmp_path / "images"),
        **options,
    )


def said(mme, *texts):
    return [
        {"question_id": asked.question_id, "prompt": asked.prompt, "text": text}
        for asked, text in zip(mme.asked(STORE), texts, strict=True)
    ]


def test_ten_tasks_make_the_headline():
    assert len(PERCEPTION) == 10
    assert len(COGNITION) == 4


def test_prompts_and_pictures_are_those_of_the_official_file(tmp_path):
    mme = write(tmp_path, "results")
    last = mme.asked(STORE)[-1]
    assert last.question_id == "artwork/images/10002.jpg"
    assert last.prompt == (
        "Is this a tapestry?\nAnswer the question using a single word or phrase."
    )
    assert last.image == tmp_path / "images" / "artwork/images/10002.jpg"


@pytest.mark.parametrize("layout", ["release", "flat", "results"])
def test_a_task_is_worth_accuracy_and_both_right(tmp_path, layout):
    # count: right, right; right, wrong ("other"): 3 of 4 questions, 1 of 2 images: 75 + 50.
    # artwork: wrong (empty), right: 1 of 2 questions, 0 of 1 images: 50 + 0.
    mme = write(tmp_path, layout)
    scored = mme.score(said(mme, "yes, it is", "No.", "NO", "I say yes", "", "Nope"), STORE)
    assert scored.score == 175
    assert scored.num == 6
    assert scored.detail == {
        "count": {"acc": 75, "acc_plus": 50, "score": 125},
        "artwork": {"acc": 50, "acc_plus": 0, "score": 50},
    }
    images = scored.outcomes  # columns: accuracy and both right of count, then of artwork
    assert images.gained.tolist() == [[2, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]
    assert images.counted.tolist() == [[2, 1, 0, 0], [2, 1, 0, 0], [0, 0, 2, 1]]


def test_the_order_of_the_answers_does_not_matter(tmp_path):
    mme = write(tmp_path, "flat")
    answers = said(mme, "Yes", "No", "No", "Yes", "Yes", "No")
    assert mme.score(answers[::-1], STORE).score == 400


def test_fewer_tasks_are_asked_by_name(tmp_path):
    mme = write(tmp_path, "results", tasks=["artwork"])
    scored = mme.score(said(mme, "No", "No", "No", "No", "Yes", "No"), STORE)
    assert scored.score == 200
    assert scored.num == 2
    assert scored.detail["count"]["score"] == 50


def test_cognition_stands_beside_the_headline(tmp_path):
    asked = ASKED | {(task, "1"): [("Is it 1?", "Yes"), ("Is it 2?", "No")] for task in COGNITION}
    mme = write(tmp_path, "results", asked)
    scored = mme.score(said(mme, *["Yes", "No"] * 7), STORE)
    assert scored.detail["cognition"] == {"score": 800}
    assert scored.score == 50 + 50 + 200  # count: 2 of 4 right, 1 of 2 images; artwork: all


def test_a_task_without_questions_is_refused(tmp_path):
    mme = write(tmp_path, "results", tasks=PERCEPTION)
    with pytest.raises(AnswerError, match="no question for existence, position"):
        mme.score(said(mme, *["Yes"] * 6), STORE)


def test_an_image_with_one_question_is_refused(tmp_path):
    mme = write(tmp_path, "results", {("count", "1"): [("One?", "Yes")]}, tasks=["count"])
    with pytest.raises(AnswerError, match="count, 1 has 1 questions, expected 2"):
        mme.score(said(mme, "Yes"), STORE)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("one cup", "three cups", "no truth for count, 0001: 'Is there one cup.'"),
        ("\tYes", "\tMaybe", "count.txt: line 1: answer 'Maybe', expected Yes or No"),
        ("\tYes", "", "count.txt: line 1 does not have the expected columns"),
        ("Are there  two cups", "Is there one cup", "count.txt: line 2: .* is in the file twice"),
    ],
)
def test_damaged_truth_is_refused(tmp_path, old, new, message):
    mme = write(tmp_path, "results")
    path = tmp_path / "count.txt"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(AnswerError, match=message):
        mme.score(said(mme, *["Yes"] * 6), STORE)


def test_a_task_without_truth_is_refused(tmp_path):
    mme = write(tmp_path, "results")
    (tmp_path / "count.txt").unlink()
    with pytest.raises(AnswerError, match=r"no truth for task 'count'; expected count.txt, count/"):
        mme.score(said(mme, *["Yes"] * 6), STORE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "1 of 6 questions have no answer, the first is .'count', '0001'"),
        (lambda lines: [*lines, lines[0]], "line 7 answers .* a second time"),
        (lambda lines: [*lines[1:], lines[0] | {"prompt": "Why?"}], "line 6 answers .*'Why.'"),
        (lambda lines: [{"question_id": "a", "text": ""}], "answer line 1 has no `prompt`"),
    ],
)
def test_missing_doubled_and_foreign_answers_are_refused(tmp_path, change, message):
    mme = write(tmp_path, "results")
    with pytest.raises(AnswerError, match=message):
        mme.score(change(said(mme, *["Yes"] * 6)), STORE)


def test_another_number_of_questions_than_the_official_one_is_refused(tmp_path):
    with pytest.raises(AnswerError, match="6 found, 2374 expected"):
        write(tmp_path, "results", count=2374).asked(STORE)
