"""MMBench: circular groups of two, three and four rows, and the reading of its TSV."""

import base64
import csv
from pathlib import Path

import pytest

from xmas.evaluation.benchmarks.mmbench import CHINESE, MMBench, option_letter
from xmas.evaluation.protocol import AnswerError
from xmas.store import Store, describe

STORE = Store("nowhere")
COLUMNS = ["index", "question", "hint", *"ABCD", "answer", "category", "image", "l2-category"]
PICTURE = b"\x89PNG" + bytes(200_000)  # in base64 longer than the csv module's default limit


def row(index, options, answer, **more):
    cells = dict(zip("ABCD", [*options, "", "", ""], strict=False))
    image = base64.b64encode(PICTURE if index == 1 else b"png").decode()
    given = {"question": "Which?", "hint": "", "category": "k", "l2-category": "l", "image": image}
    return {"index": index, "answer": answer, **cells, **given, **more}


def rotated(index, options, answer, **more):
    """A row for every rotation of the options; the right one moves on a letter up each time."""
    for turn in range(len(options)):
        moved = options[turn:] + options[:turn]
        letter = "ABCD"[("ABCD".index(answer) - turn) % len(options)]
        yield row(index + turn * 1_000_000, moved, letter, **more)


ROWS = [
    *rotated(1, ["wax", "no wax"], "A", hint='He said "wax".\nTwice.', category="physics"),
    *rotated(2, ["red", "blue", "green"], "B"),
    *rotated(3, ["one", "two", "three", "four"], "D"),
]


def write(tmp_path, rows=ROWS, **options):
    with (tmp_path / "dev.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    path = str(tmp_path / "dev.tsv")
    return MMBench(**({"questions": path, "annotations": path, "count": None} | options))


def said(**changed):
    """Right answers, but for those given as `i<index>=text`."""
    texts = {given["index"]: given["answer"] for given in ROWS}
    texts |= {int(name[1:]): text for name, text in changed.items()}
    return [{"question_id": index, "text": text} for index, text in texts.items()]


def test_prompt_image_and_the_further_keys_of_an_answer_line(tmp_path):
    first, second = write(tmp_path).asked(STORE)[:2]
    assert first.question_id == 1
    assert first.prompt == (
        'He said "wax".\nTwice.\nWhich?\nA. wax\nB. no wax\n'
        "Answer with the option's letter from the given choices directly."
    )
    assert first.image == PICTURE
    assert first.extra == {"round_id": 0, "options": ["wax", "no wax"], "option_char": ["A", "B"]}
    assert second.question_id == 1_000_001
    assert second.extra["options"] == ["no wax", "wax"]


def test_the_chinese_benchmark_has_its_own_name_and_suffix(tmp_path):
    chinese = write(tmp_path, name="mmbench_cn", suffix=CHINESE, split="dev_cn_20231003")
    assert chinese.name == "mmbench_cn"
    assert chinese.asked(STORE)[2].prompt == (
        "Which?\nA. red\nB. blue\nC. green\n请直接回答选项字母。"
    )


@pytest.mark.parametrize("nothing", ["", "nan", "None", "N/A"])
def test_options_end_at_the_first_that_pandas_takes_for_missing(tmp_path, nothing):
    asked = write(tmp_path, [row(5, ["x", "y", nothing, "z"], "A")]).asked(STORE)
    assert asked[0].extra["options"] == ["x", "y"]


def test_all_right_is_a_hundred(tmp_path):
    scored = write(tmp_path).score(said(), STORE)
    assert scored.score == 100
    assert scored.num == 3
    assert scored.detail == {
        "vanilla": 100,
        "unresolved": 0,
        "rows": 9,
        "category": {"k": 100, "physics": 100},
        "l2-category": {"l": 100},
    }


def test_one_wrong_rotation_loses_the_question_but_not_vanilla(tmp_path):
    answers = said(i1000001="A", i2000002="A.", i3000003="I cannot tell")
    # 1: its second row is wrong. 2: row 2000002 is green, red, blue and "A." wrong. 3: unresolved.
    scored = write(tmp_path).score(answers, STORE)
    assert scored.score == 0
    assert scored.detail["vanilla"] == 100
    assert scored.detail["unresolved"] == 1
    assert scored.detail["category"] == {"k": 0, "physics": 0}
    outcomes = write(tmp_path).score(said(i1000001="A"), STORE).outcomes
    assert outcomes.keys.tolist() == ["1", "2", "3"]
    assert outcomes.gained[:, 0].tolist() == [0, 1, 1]
    assert outcomes.pictures.tolist() == [0, 1, 1]  # the third shows what the second does


def test_loose_answers_count_by_letter_or_text_and_empty_ones_are_wrong(tmp_path):
    scored = write(tmp_path).score(said(i1="A. wax", i2="It is BLUE", i3=""), STORE)
    assert scored.score == pytest.approx(200 / 3)
    assert scored.detail["vanilla"] == pytest.approx(200 / 3)
    assert scored.detail["unresolved"] == 1


@pytest.mark.parametrize(
    ("text", "letter"),
    [  # by hand from VLMEvalKit #1552; without it, none is resolved
        ("The correct answer is **B**, since A shows no fire and C is green.", "B"),
        ("ANSWER  IS c. Neither A nor B shows it, as one sees at once here.", "C"),
        ("The answer is both A and B, one would say, but never C at any time.", "B"),
        ("Answer: B. A and C are out of the question here for many reasons.", None),
        ("The answer is D. A and C are out of the question for many reasons.", None),
        ("The answer is **(B)**. A and C are out of the question, for reasons.", None),
        ("Z. The answer is b, I would say if I had to, but I do not have to.", None),
    ],
)
def test_a_declared_answer_counts_by_the_rules_of_2026(text, letter):
    options = {"A": "red", "B": "blue", "C": "green"}
    assert option_letter(text, options) is None
    assert option_letter(text, options, matching=2026) == letter


def test_the_rules_of_2026_are_another_metric_and_another_score(tmp_path):
    answers = said(i1="The answer is **A**, and not B, as one sees on the left of it.")
    former, later = write(tmp_path), write(tmp_path, matching=2026)
    assert former.score(answers, STORE).score == pytest.approx(200 / 3)
    assert later.score(answers, STORE).score == 100
    assert former.metric == "circular_accuracy"
    assert later.metric == "circular_accuracy, matching of 2026"
    assert describe(later) == describe(former) | {"matching": 2026}
    with pytest.raises(ValueError, match=r"mmbench.matching=2027: expected 2025 or 2026"):
        write(tmp_path, matching=2027)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "1 of 9 questions have no answer, the first is 1;"),
        (lambda lines: [*lines, lines[0]], "line 10 answers 1 a second time"),
        (lambda lines: [*lines[1:], {"question_id": 4, "text": ""}], "line 9 answers 4"),
    ],
)
def test_missing_doubled_and_foreign_answers_are_refused(tmp_path, change, message):
    with pytest.raises(AnswerError, match=message):
        write(tmp_path).score(change(said()), STORE)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("one", ["x", "y"], "A")], "line 2: index 'one' is not a number"),
        ([row(5, ["x", "y"], "A"), row(5, ["y", "x"], "B")], "5 is in the file twice"),
        ([], "has no rows"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, rows, message):
    with pytest.raises(AnswerError, match=message):
        write(tmp_path, rows).asked(STORE)


def test_an_answer_that_is_no_option_is_refused(tmp_path):
    bench = write(tmp_path, [row(5, ["x", "y"], "C")])
    with pytest.raises(AnswerError, match="index 5: answer 'C' is none of the options A, B"):
        bench.score([{"question_id": 5, "text": "A"}], STORE)


def test_a_column_that_is_missing_a_short_line_and_a_broken_image_are_named(tmp_path):
    bench = write(tmp_path)
    path = Path(str(bench.questions))
    path.write_text("index\tquestion\n1\tWhich?\n")
    with pytest.raises(AnswerError, match="no column hint, A, B, C, D, image"):
        bench.asked(STORE)
    path.write_text("\t".join(COLUMNS) + "\n1\tWhich?\n")
    with pytest.raises(AnswerError, match="line 2: no hint, the line is cut short"):
        bench.asked(STORE)
    with pytest.raises(AnswerError, match="image of index 7 is not base64"):
        write(tmp_path, [row(7, ["x", "y"], "A", image="no!")]).asked(STORE)


def test_the_limit_of_the_csv_module_is_put_back(tmp_path):
    before = csv.field_size_limit()
    write(tmp_path).asked(STORE)
    assert csv.field_size_limit() == before


def test_another_number_of_rows_than_the_official_one_is_refused(tmp_path):
    with pytest.raises(AnswerError, match="9 found, 4377 expected; take the TSV of dev_20230712"):
        write(tmp_path, count=4377).asked(STORE)


def test_answers_may_stand_in_a_file_of_their_own(tmp_path):
    answers = tmp_path / "answers.tsv"
    rows = [{"index": row["index"], "answer": row["answer"]} for row in reversed(ROWS)]
    lines = ["index\tanswer", *(f"{row['index']}\t{row['answer']}" for row in rows)]
    answers.write_text("\n".join(lines) + "\n")
    asked = [{name: cell for name, cell in row.items() if name != "answer"} for row in ROWS]
    with (tmp_path / "test.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(
            file, [name for name in COLUMNS if name != "answer"], delimiter="\t"
        )
        writer.writeheader()
        writer.writerows(asked)
    path = str(tmp_path / "test.tsv")
    assert (
        write(tmp_path, questions=path, annotations=str(answers)).score(said(), STORE).score == 100
    )
    with pytest.raises(AnswerError, match=r"test.tsv: no column answer"):
        write(tmp_path, questions=path, annotations=path).score(said(), STORE)
    answers.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(AnswerError, match=r"answers.tsv: no answer to 1$"):
        write(tmp_path, questions=path, annotations=str(answers)).score(said(), STORE)


def test_the_upload_has_the_columns_that_are_left_and_the_answers_in_the_seventh(tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is in the extra `dev`")
    rows = [row(5, ["=1+1", "y"], "B", hint="see"), row(1_000_005, ["y", "=1+1"], "A")]
    answers = [{"question_id": 1_000_005, "text": "A"}, {"question_id": 5, "text": "=B"}]
    path = write(tmp_path, rows).submit(answers, STORE, tmp_path)
    assert path.name == "mmbench_dev_20230712.xlsx"
    sheet = openpyxl.load_workbook(path).active
    assert [[cell.value for cell in line] for line in sheet.rows] == [
        ["index", "question", "A", "B", "C", "D", "prediction", "answer"],
        [5, "Which?", "=1+1", "y", None, None, "=B", "B"],
        [1_000_005, "Which?", "y", "=1+1", None, None, "A", "A"],
    ]
    assert sheet["C2"].data_type == "s"  # and no formula
    with pytest.raises(AnswerError, match="1 of 2 questions have no answer"):
        write(tmp_path, rows).submit(answers[:1], STORE, tmp_path)
    with pytest.raises(ValueError, match=r"prediction of 5: .* characters that xlsx cannot store"):
        write(tmp_path, rows).submit([answers[0], answers[1] | {"text": "\x07"}], STORE, tmp_path)
