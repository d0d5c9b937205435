"""Answer files as other programs write them: read if it can be, else refused with file and line."""

import json
import logging
from pathlib import Path

import pytest

from xmas.evaluation.benchmarks.gqa import Gqa
from xmas.evaluation.benchmarks.mmbench import MMBench
from xmas.evaluation.benchmarks.mme import Mme
from xmas.evaluation.benchmarks.pope import Pope
from xmas.evaluation.json_files import by_key, json_lines, json_object
from xmas.evaluation.protocol import AnswerError, join
from xmas.evaluation.rescore import Rescore
from xmas.evaluation.spreadsheet import read_tsv
from xmas.store import Store

YES_NO = ("Yes", "No", "Yes", "No", "Yes", "No")
BOM = b"\xef\xbb\xbf"


@pytest.fixture
def pope(tmp_path: Path) -> Pope:
    """Six questions of one category, yes and no in turn; labels and questions have a mark first."""
    questions = [
        {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a cat{n}?", "category": "random"}
        for n in range(6)
    ]
    labels = [
        {key: row[key] for key in ("question_id", "image", "text")} | {"label": YES_NO[n].lower()}
        for n, row in enumerate(questions)
    ]
    (folder := tmp_path / "pope").mkdir()
    for name, rows in (("q.jsonl", questions), ("coco_pope_random.json", labels)):
        (folder / name).write_bytes(BOM + "\r\n".join(map(json.dumps, rows)).encode())
    return Pope(str(folder / "q.jsonl"), str(folder), str(folder), count=None)


@pytest.fixture
def gqa(tmp_path: Path) -> Gqa:
    """Six questions whose answers are those of `YES_NO`."""
    questions = [{"question_id": f"{n}", "image": "a.jpg", "text": "Red?"} for n in range(6)]
    truth = {f"{n}": {"answer": answer.lower()} for n, answer in enumerate(YES_NO)}
    (tmp_path / "gqa.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (tmp_path / "truth.json").write_bytes(BOM + json.dumps(truth).encode())
    return Gqa(str(tmp_path / "gqa.jsonl"), str(tmp_path / "truth.json"), "", count=None)


def lines(texts=YES_NO, ids=range(6)) -> list[dict]:
    return [
        {"question_id": number, "prompt": "", "text": text}
        for number, text in zip(ids, texts, strict=True)
    ]


def answers(folder: Path, rows: list[dict], encode=lambda text: text.encode()) -> str:
    path = folder / "answers.jsonl"
    path.write_bytes(encode("\n".join(json.dumps(row, ensure_ascii=False) for row in rows)))
    return str(path)


def score(benchmark, folder: Path, path: str) -> float:
    return json.loads(Rescore(benchmark, path).make(Store(str(folder / "store"))))["score"]


READ = {
    "plain": lambda text: text.encode(),
    "a mark first": lambda text: text.encode("utf-8-sig"),
    "Windows' line ends": lambda text: text.replace("\n", "\r\n").encode(),
    "blank lines": lambda text: f"\n{text}\n\n".encode(),
}


@pytest.mark.parametrize("name", READ)
def test_marks_and_line_ends_change_no_score(pope, tmp_path, name):
    assert score(pope, tmp_path, answers(tmp_path, lines(), READ[name])) == 100


REFUSED = {
    "UTF-16": ("utf-16", r"not UTF-8 but UTF-16 \(.* at byte 0\); .*iconv -f UTF-16 -t UTF-8"),
    "UTF-16 without a mark": ("utf-16-be", r"not UTF-8 but UTF-16 \("),
    "Latin-1": ("latin-1", r"not UTF-8 but ISO-8859-1 or another.*iconv -f ISO-8859-1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_encoding_is_named_with_its_file(pope, tmp_path, name):
    encoding, message = REFUSED[name]
    path = answers(tmp_path, lines(("Oui, là",) * 6), lambda text: text.encode(encoding))
    with pytest.raises(AnswerError, match=rf"answers\.jsonl: {message}"):
        score(pope, tmp_path, path)


def test_ids_are_compared_as_texts(pope, gqa, tmp_path):
    assert score(pope, tmp_path, answers(tmp_path, lines(ids="012345"))) == 100
    assert score(gqa, tmp_path, answers(tmp_path, lines(ids=range(6)))) == 100
    with pytest.raises(AnswerError, match="line 2 answers 1 a second time"):
        join(
            [1],
            [{"id": 1, "text": ""}, {"id": "1", "text": ""}],
            lambda row: row["id"],
            benchmark="b",
        )
    both = [{"id": 1, "text": "number"}, {"id": "1", "text": "text"}]
    joined = join([1, "1"], both, lambda row: row["id"], benchmark="b")
    assert joined == {1: "number", "1": "text"}  # where both are asked they differ


@pytest.mark.parametrize("odd", [True, None, [1], {"a": 1}])
def test_an_id_that_is_no_number_and_no_text_is_refused(pope, tmp_path, odd):
    path = answers(tmp_path, lines(ids=[0, odd, 2, 3, 4, 5]))
    with pytest.raises(AnswerError, match=r"answer line 2: `question_id`: .* is no id, expected a"):
        score(pope, tmp_path, path)
    with pytest.raises(AnswerError, match=r"q\.jsonl: .* is no id"):
        by_key([{"id": odd}], lambda row: row["id"], Path("q.jsonl"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question_id": ' + "7" * 5000 + "}", "has a number of thousands of digits"),
        ('{"a":' * 100_000, "is nested too deeply to be read"),
    ],
)
def test_json_that_python_does_not_read_is_named_by_line(tmp_path, text, message):
    path = tmp_path / "answers.jsonl"
    path.write_text(f'{{"question_id": 1}}\n{text}\n')
    with pytest.raises(AnswerError, match=rf"answers\.jsonl: line 2 {message}"):
        json_lines(path)
    path.write_text(text)
    with pytest.raises(AnswerError, match=rf"answers\.jsonl: {message}"):
        json_object(path)


def test_tables_and_truth_of_other_programs_are_read(tmp_path):
    path = tmp_path / "q.tsv"
    path.write_bytes(BOM + b"index\tquestion\r\n1\tRed?\r\n")
    assert [*read_tsv(path, ("index", "question"))] == [{"index": "1", "question": "Red?"}]
    path.write_bytes("index\tquestion\n1\tété\n".encode("latin-1"))
    with pytest.raises(AnswerError, match=r"q\.tsv: not UTF-8 but ISO-8859-1"):
        [*read_tsv(path, ("index", "question"))]


def test_mme_s_truth_may_have_a_mark_and_windows_line_ends(tmp_path):
    rows = [
        {"question_id": "count/0.png", "category": "count", "image": "count/0.png", "text": text}
        for text in ("One? Please answer yes or no.", "Two? Please answer yes or no.")
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    truth = "0.png\tOne? Please answer yes or no.\tYes\r\n0.png\tTwo? Please answer yes or no.\tNo"
    (tmp_path / "count.txt").write_bytes(BOM + truth.encode())
    mme = Mme(str(tmp_path / "q.jsonl"), str(tmp_path), "", tasks=["count"], count=None)
    given = [
        {"question_id": "count/0.png", "prompt": row["text"], "text": text}
        for row, text in zip(rows, ("Yes", "No"), strict=True)
    ]
    assert mme.score(given, Store(str(tmp_path / "store"))).score == 200


# --- answers that no rule expects ---

ODD = {
    "line breaks": ("Yes\n", "No\n"),
    "spaces": (" Yes", " No"),
    "an end mark": ("Yes</s>", "No</s>"),
    "another end mark": ("Yes<|im_end|>", "No<|im_end|>"),
}


@pytest.mark.parametrize("name", ODD)
def test_white_space_and_end_marks_are_scored_by_the_rule_and_warned_of(
    gqa, tmp_path, caplog, name
):
    path = answers(tmp_path, lines(ODD[name] * 3))
    with caplog.at_level(logging.WARNING, "xmas"):
        assert score(gqa, tmp_path, path) == 0  # as LLaVA's script would give
    first, second = caplog.messages
    assert first.startswith(f"{path}: 6 of 6 answers begin or end with white space or an end mark")
    assert "LLaVA strips them before scoring" in first
    assert "no answer is right, though the answers differ" in second


def test_a_single_verdict_for_different_answers_is_warned_of(pope, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "xmas"):
        score(pope, tmp_path, answers(tmp_path, lines(("**Yes**", "**No**") * 3)))
    assert ": every answer counts as yes, though the answers differ: '**No**'" in caplog.text


def test_answers_in_the_expected_form_are_no_matter_for_a_warning(pope, gqa, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "xmas"):
        score(pope, tmp_path, answers(tmp_path, lines()))
        score(pope, tmp_path, answers(tmp_path, lines(("No",) * 6)))  # all alike: the model's
        score(gqa, tmp_path, answers(tmp_path, lines()))
    assert caplog.messages == []


def test_options_that_no_answer_names_are_warned_of(tmp_path, caplog):
    head = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tl2-category\n"
    rows = "".join(f"{n}\tRed?\t\tyes\tno\t\t\tA\tc\t\tl\n" for n in range(6))
    (tmp_path / "q.tsv").write_text(head + rows)
    path = str(tmp_path / "q.tsv")
    mmbench = MMBench(path, path, count=None)
    with caplog.at_level(logging.WARNING, "xmas"):
        texts = ("It is so.", "It is not so.") * 3
        score(mmbench, tmp_path, answers(tmp_path, lines(texts)))
    assert "no answer names an option, though the answers differ" in caplog.text
