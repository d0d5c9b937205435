"""TextVQA: three questions about two images, with and without a text reader's words."""

import dataclasses
import json

import pytest

from xmas.evaluation.benchmarks.textvqa import TextVqa, TextVqaNoOcr
from xmas.evaluation.protocol import SHORT, AnswerError
from xmas.store import Store

STORE = Store("nowhere")
ASKED = [  # image, question, what a reader found, ten answers
    ("00a1", "what is the Brand?", ["Coca", "Cola"], ["coca cola"] * 2 + ["Coke"] * 8),
    ("00a1", "what year?", ["Coca", "Cola"], ["1999"] * 10),
    ("00b2", "is it 10,000?", [], ["yes."] * 4 + ["no"] * 6),
]


def write(tmp_path, kind=TextVqa, official=False, **options):
    with (tmp_path / "llava.jsonl").open("w") as file:
        for image, question, read, _ in ASKED:
            text = question.capitalize()
            text += f"\nReference OCR token: {', '.join(read)}" if kind is TextVqa else ""
            row = {"question_id": image, "image": f"{image}.jpg", "text": text + SHORT}
            file.write(json.dumps(row | {"category": "default"}) + "\n")
    known = [
        {"image_id": image, "question": question, "question_id": 34602 + n, "answers": answers}
        for n, (image, question, _, answers) in enumerate(ASKED)
    ]
    (tmp_path / "truth.json").write_text(json.dumps({"data": known}))
    read = [{"image_id": image, "ocr_tokens": tokens} for image, _, tokens, _ in ASKED]
    (tmp_path / "rosetta.json").write_text(json.dumps({"data": read}))
    if official and kind is TextVqa:
        options = {"ocr": str(tmp_path / "rosetta.json")} | options
    return kind(
        str(tmp_path / ("truth.json" if official else "llava.jsonl")),
        str(tmp_path / "truth.json"),
        str(tmp_path / "train_images"),
        **({"count": None} | options),
    )


def said(bench, *texts):
    return [
        {"question_id": asked.question_id, "prompt": asked.prompt, "text": text}
        for asked, text in zip(bench.asked(STORE), texts, strict=True)
    ]


@pytest.mark.parametrize("kind", [TextVqa, TextVqaNoOcr])
def test_both_formats_ask_the_same(tmp_path, kind):
    asked = write(tmp_path, kind).asked(STORE)
    assert asked == write(tmp_path, kind, official=True).asked(STORE)
    read = ["\nReference OCR token: Coca, Cola", "\nReference OCR token: "]
    first, _, last = (one.prompt for one in asked)
    assert first == "What is the brand?" + (read[0] if kind is TextVqa else "") + SHORT
    assert last == "Is it 10,000?" + (read[1] if kind is TextVqa else "") + SHORT
    assert asked[0].image == tmp_path / "train_images" / "00a1.jpg"


@pytest.mark.parametrize("kind", [TextVqa, TextVqaNoOcr])
def test_scores_worked_out_by_hand(tmp_path, kind):
    # two of ten said coca cola: 0.6; the year is another: 0; "Yes" is what four said, prepared: 1.
    bench = write(tmp_path, kind)
    scored = bench.score(said(bench, "The Coca Cola.", "1989", "Yes"), STORE)
    assert scored.score == pytest.approx(160 / 3)
    assert scored.num == 3
    assert scored.outcomes.pictures.tolist() == [0, 0, 1]


def test_questions_that_share_an_id_are_told_apart_whatever_the_order(tmp_path):
    bench = write(tmp_path)
    answers = said(bench, "coke", "1999", "no")
    assert bench.score(answers[::-1], STORE).score == 100
    swapped = said(bench, "1999", "coke", "no")
    assert bench.score(swapped, STORE).score == pytest.approx(100 / 3)


def test_answers_with_a_reader_and_without_never_pass_for_each_other(tmp_path):
    assert (TextVqa.name, TextVqaNoOcr.name) == ("textvqa", "textvqa_noocr")
    without = write(tmp_path, TextVqaNoOcr, official=True)
    answers = said(without, "coke", "1999", "no")
    reading = write(tmp_path)
    told = said(reading, "coke", "1999", "no")
    with pytest.raises(AnswerError, match=r"answer line 1: .* has no OCR tokens; .* textvqa_noocr"):
        reading.score(answers, STORE)
    with pytest.raises(
        AnswerError, match=r"answer line 1: the prompt has OCR tokens; that is textvqa"
    ):
        without.score(told, STORE)
    with pytest.raises(AnswerError, match=r"llava.jsonl: 00a1: the prompt has OCR tokens"):
        dataclasses.replace(without, questions=reading.questions).asked(STORE)
    with pytest.raises(AnswerError, match=r"truth.json: 00a1: .* set `ocr` to the file"):
        write(tmp_path, official=True, ocr=None).asked(STORE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda lines: lines[1:],
            "1 of 3 questions have no answer, the first is .*'00a1', 'what is",
        ),
        (lambda lines: [*lines, lines[0]], "line 4 answers .*'00a1', 'what is.* a second time"),
        (lambda lines: [*lines[1:], lines[0] | {"question_id": "x"}], "line 3 answers .'x'"),
        (lambda lines: [{"question_id": "00a1", "text": ""}], "answer line 1 has no `prompt`"),
    ],
)
def test_missing_doubled_and_foreign_answers_are_refused(tmp_path, change, message):
    bench = write(tmp_path)
    with pytest.raises(AnswerError, match=message):
        bench.score(change(said(bench, "coke", "1999", "no")), STORE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "no truth for 'what is the brand.' on 00a1"),
        (lambda rows: [*rows, rows[1]], "'00a1', 'what year.'. is in the file twice"),
        (lambda rows: [rows[0] | {"answers": ["x"] * 9}, *rows[1:]], "has 9 answers, expected 10"),
    ],
)
def test_damaged_truth_is_refused(tmp_path, change, message):
    bench = write(tmp_path)
    answers = said(bench, "coke", "1999", "no")
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"data": change(json.loads(path.read_text())["data"])}))
    with pytest.raises(AnswerError, match=message):
        bench.score(answers, STORE)


def test_an_image_that_the_reader_never_saw_is_named(tmp_path):
    bench = write(tmp_path, official=True)
    (tmp_path / "rosetta.json").write_text(json.dumps({"data": []}))
    with pytest.raises(AnswerError, match=r"rosetta.json: no OCR tokens of image 00a1"):
        bench.asked(STORE)


def test_another_number_of_questions_than_the_official_one_is_refused(tmp_path):
    with pytest.raises(AnswerError, match="3 found, 5000 expected"):
        write(tmp_path, count=5000).asked(STORE)
