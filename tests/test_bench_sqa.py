"""ScienceQA: four problems, of which two have an image and make the headline."""

import json

import pytest

from xmas.evaluation.benchmarks.sqa import Sqa, option_letter_exactly
from xmas.evaluation.protocol import AnswerError
from xmas.store import Store

STORE = Store("nowhere")
END = "\nAnswer with the option's letter from the given choices directly."
PROBLEMS = {  # hint, question, choices, answer, image
    "4": ("", "Which is red?", ["this", "that"], 1, True),
    "5": ("Look closely.", "How many?", ["1", "2", "3"], 0, True),
    "9": ("", "What is 1 + 1?", ["2", "3"], 0, False),
    "11": ("", "Which?", ["u", "v", "w", "x", "y"], 4, False),
}


def write(tmp_path, **options):
    asked, problems = [], {"3": {"choices": ["?"], "answer": 0, "split": "train"}}
    for name, (hint, question, choices, answer, image) in PROBLEMS.items():
        lines = [f"Context: {hint}"] if hint else []
        lines += [question, *(f"{'ABCDE'[n]}. {text}" for n, text in enumerate(choices))]
        lines += ["<image>"] if image else []
        human, gpt = "\n".join(lines), f"The answer is {'ABCDE'[answer]}."
        turns = [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]
        more = {"image": f"{name}/image.png"} if image else {}
        asked.append({"id": name, **more, "conversations": turns})
        problems[name] = {
            "question": question, "choices": choices, "answer": answer, "hint": hint,
            "image": "image.png" if image else None, "subject": "natural science",
            "grade": f"grade{len(choices)}", "split": "test",
        }  # fmt: skip
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"train": ["3"], "test": [*PROBLEMS]}))
    return Sqa(
        str(tmp_path / "asked.json"),
        str(tmp_path / "problems.json"),
        str(tmp_path / "images"),
        **({"count": 4, "with_image": 2} | options),
    )


def said(*texts):
    return [{"question_id": name, "text": text} for name, text in zip(PROBLEMS, texts, strict=True)]


def test_prompts_and_images(tmp_path):
    first, second, third, _ = write(tmp_path).asked(STORE)
    assert first.question_id == "4"
    assert first.prompt == "Which is red?\nA. this\nB. that" + END
    assert first.image == tmp_path / "images" / "4" / "image.png"
    assert second.prompt == "Context: Look closely.\nHow many?\nA. 1\nB. 2\nC. 3" + END
    assert third.image is None


@pytest.mark.parametrize("splits", [False, True])
def test_only_questions_with_an_image_are_the_headline(tmp_path, splits):
    # 4: B, right. 5: C, wrong. 9: "2" is no letter, failed. 11: right.
    options = {"splits": str(tmp_path / "pid_splits.json")} if splits else {}
    scored = write(tmp_path, **options).score(said("B. that", "C", "2", "The answer is E."), STORE)
    assert scored.score == 50
    assert scored.num == 2
    assert scored.detail == {
        "all": 50, "image": 50, "no image": 50, "subject: natural science": 50,
        "grade: grade2": 50, "grade: grade3": 0, "grade: grade5": 100, "failed": 1,
    }  # fmt: skip


def test_a_letter_beyond_the_choices_is_wrong_but_readable(tmp_path):
    scored = write(tmp_path).score(said("E", "A", "The answer is Z.", "E"), STORE)
    assert scored.score == 50
    assert scored.detail["failed"] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A", "A"),
        ("E", "E"),
        ("F", None),
        ("b", None),
        ("B. red", "B"),
        ("B.", None),  # neither the letter nor "B. "
        ("B) red", None),
        ("The answer is C.", "C"),
        ("The answer is C!", "C"),  # any character passes for the full stop
        ("The answer is C", None),
        ("I think: The answer is D. Sure.", "D"),
        ("The answer is A. No: The answer is B.", None),
        ("the answer is A.", None),
        ("AB", None),
        ("", None),
    ],
)
def test_what_is_read_as_a_letter(text, expected):
    assert option_letter_exactly(text, "ABCDE") == expected


def test_the_order_of_the_answers_does_not_matter(tmp_path):
    answers = said("B", "C", "A", "")
    one, other = (write(tmp_path).score(given, STORE) for given in (answers, answers[::-1]))
    assert (one.score, one.detail) == (other.score, other.detail)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "1 of 4 questions have no answer, the first is '11'"),
        (lambda lines: [*lines, lines[0]], "line 5 answers '4' a second time"),
        (lambda lines: [*lines[1:], {"question_id": "3", "text": ""}], "line 4 answers '3'"),
    ],
)
def test_missing_doubled_and_foreign_answers_are_refused(tmp_path, change, message):
    with pytest.raises(AnswerError, match=message):
        write(tmp_path).score(change(said("B", "C", "A", "E")), STORE)


def test_questions_of_another_split_are_refused(tmp_path):
    bench = write(tmp_path, splits=str(tmp_path / "pid_splits.json"))
    answers = said("B", "C", "A", "E")
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ["4", "5", "9"]}))
    with pytest.raises(AnswerError, match=r"pid_splits.json: question '11' is no problem of test"):
        bench.score(answers, STORE)
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": [*PROBLEMS, "12"]}))
    with pytest.raises(
        AnswerError, match=r"pid_splits.json: test has '12' too, which is not asked"
    ):
        bench.score(answers, STORE)
    (tmp_path / "pid_splits.json").write_text(json.dumps({"val": []}))
    with pytest.raises(AnswerError, match=r"pid_splits.json has no `test`"):
        bench.score(answers, STORE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 4241}, "questions: 4 found, 4241 expected"),
        ({"with_image": 2017}, "questions with an image: 2 found, 2017 expected"),
    ],
)
def test_other_numbers_than_the_official_ones_are_refused(tmp_path, options, message):
    with pytest.raises(AnswerError, match=message):
        write(tmp_path, **options).asked(STORE)
