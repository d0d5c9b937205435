"""Scores of answer files from elsewhere: by content, complete, in any order, and as a command."""

import contextlib
import csv
import dataclasses
import functools
import json
import os
import random
import subprocess
from pathlib import Path

import numpy as np
import official
import pytest
from server import Server

from xmas.evaluation.json_files import json_lines
from xmas.evaluation.protocol import AnswerError, Benchmark, Scored
from xmas.evaluation.rescore import Rescore
from xmas.evaluation.submission import Submission
from xmas.store import Store

LONG = [pytest.mark.slow, pytest.mark.timeout(1800)]
NAMES = [
    pytest.param(write.__name__, marks=LONG if write.__name__ == "vqav2_val" else [])
    for write in official.WRITERS
]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A function of a benchmark's name that gives its files, written once; read-only, but for what
    `with_texts` restores.
    """

    @functools.cache
    def written(name: str) -> official.Given:
        return getattr(official, name)(tmp_path_factory.mktemp(name), np.random.default_rng(0))

    return written


@contextlib.contextmanager
def with_texts(texts: dict[Path, str]):
    """Files that have other texts within the block."""
    before = {path: path.read_bytes() for path in texts}
    try:
        for path, text in texts.items():
            path.write_text(text)
        yield
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def changed(path: Path, change) -> str:
    """The text of a file whose rows, whatever its format, `change` has gone over."""
    text = path.read_text()
    if path.suffix in (".jsonl", ".txt") or path.parent.name == "coco":
        return "".join(change(text.splitlines(keepends=True)))
    if path.suffix == ".tsv":
        head, *rows = text.splitlines(keepends=True)
        return "".join([head, *change(rows)])
    found = json.loads(text)
    if isinstance(found, list):
        return json.dumps(change(found))
    under = next((key for key in ("data", "questions", "annotations") if key in found), None)
    if under is None:
        return json.dumps(dict(change(list(found.items()))))
    return json.dumps(found | {under: change(found[under])})


USED = {  # columns of the questions that a score uses; the others use the id alone
    "sqa": ("id", "image"),
    "vizwiz_val": ("question_id", "image"),
    "textvqa": ("question_id", "text"),
    "textvqa_noocr": ("question_id", "text"),
    "mme": ("question_id", "text"),
    "pope": ("question_id", "text", "image", "category"),
}


def with_used_alone(path: Path, name: str) -> str:
    """The text of a file of questions without the columns that a score does not use."""
    if path.suffix == ".tsv":
        rows = csv.DictReader(path.read_text().splitlines(), delimiter="\t")
        columns = ["index", *"ABCD", "answer"]
        lines = ["\t".join(row[column] for column in columns) for row in rows]
        return "\n".join(["\t".join(columns), *lines, ""])
    used = USED.get(name, ("question_id",))

    def cut(row: dict) -> dict:
        return {key: content for key, content in row.items() if key in used}

    if path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        return "".join(json.dumps(cut(json.loads(line))) + "\n" for line in lines)
    content = json.loads(path.read_text())
    if isinstance(content, list):
        return json.dumps([cut(row) for row in content])
    return json.dumps({"questions": [cut(row) for row in content["questions"]]})


def shuffled(rows: list, seed: int) -> list:
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    return rows


def plain(scored: Scored) -> tuple:
    """Without what every question adds, which has the questions' order."""
    return scored.score, scored.num, scored.detail


@pytest.mark.parametrize("name", NAMES)
def test_at_official_size_order_means_nothing_and_one_line_less_is_refused(name, given, tmp_path):
    store, of = Store(str(tmp_path / "store")), given(name)
    answers = json_lines(of.answers)
    scored = of.benchmark.score(answers, store)
    assert scored.score > 0
    files = of.files[:3]  # MME has fifteen, all alike but the first
    each_in_its_own_order = {
        file: changed(file, functools.partial(shuffled, seed=seed))
        for seed, file in enumerate(files, start=1)
    }
    with with_texts(each_in_its_own_order):
        assert plain(of.benchmark.score(shuffled(answers, 0), store)) == plain(scored)
    with with_texts({files[0]: with_used_alone(files[0], name)}):
        assert of.benchmark.score(answers, store).score == scored.score  # without unused columns
    with pytest.raises(AnswerError, match="have no answer"):
        of.benchmark.score(answers[1:], store)
    for file in files:
        with (
            with_texts({file: changed(file, lambda rows: rows[1:])}),
            pytest.raises(AnswerError),
        ):
            of.benchmark.score(answers, store)


@pytest.fixture(scope="module")
def pope(given) -> official.Given:
    return given("pope")


def made(of: official.Given, store: Store, answers: Path | None = None) -> dict:
    return json.loads(Rescore(of.benchmark, str(answers or of.answers)).make(store))


def test_the_score_is_one_line_of_json(pope, tmp_path):
    store = Store(str(tmp_path))
    line = Rescore(pope.benchmark, str(pope.answers)).make(store)
    assert "\n" not in line
    found = json.loads(line)
    assert list(found) == ["benchmark", "split", "metric", "score", "num", "detail"]
    scored = pope.benchmark.score(json_lines(pope.answers), store)
    assert found["score"] == scored.score
    assert found["detail"] == scored.detail
    assert (found["benchmark"], found["split"], found["num"]) == ("pope", "coco", 8910)
    (folder, _) = store.results("rescore")[0]
    assert not (folder / "run.json").exists()  # tables of targets leave it out


def test_a_file_that_changed_is_scored_again_even_at_the_same_size_and_time(
    pope, commands, tmp_path
):
    store, path = Store(str(tmp_path / "store")), tmp_path / "answers.jsonl"
    lines = pope.answers.read_text().splitlines(keepends=True)
    path.write_text("".join(lines))
    first = made(pope, store, path)
    when = path.stat()
    swapped = "".join(line.replace('"Yes"', '"Si!"') for line in lines)  # still counts as yes
    path.write_text(swapped.replace('"No"', '"Ye"'))
    os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))
    ended = command(commands, pope, path, store)  # another process: this one remembers the hash
    assert json.loads(ended.stdout.splitlines()[-1])["score"] != first["score"]


def test_the_same_content_elsewhere_is_the_same_result(pope, tmp_path):
    store = Store(str(tmp_path / "store"))
    (tmp_path / "copy.jsonl").write_bytes(pope.answers.read_bytes())
    assert made(pope, store) == made(pope, store, tmp_path / "copy.jsonl")
    assert len(store.results("rescore")) == 1


def test_other_labels_are_another_result(pope, tmp_path):
    store, labels = Store(str(tmp_path / "store")), pope.files[1]
    before = made(pope, store)["score"]
    swapped = labels.read_text().replace('"yes"', '"?"').replace('"no"', '"yes"')
    with with_texts({labels: swapped.replace('"?"', '"no"')}):
        assert made(pope, store)["score"] != before


@pytest.fixture(scope="module")
def commands():
    running = Server("commands")
    yield running
    running.close()


def command(
    commands: Server, of: official.Given, answers: Path, store: Store
) -> subprocess.CompletedProcess:
    benchmark: Benchmark = of.benchmark
    overrides = [
        f"benchmark.{field.name}={getattr(benchmark, field.name)}"
        for field in dataclasses.fields(benchmark)
        if field.name in ("questions", "annotations", "splits")
    ]
    return commands.command(
        "goal=rescore", f"benchmark={benchmark.name}", f"rescore.answers={answers}",
        f"store.root={store.root}", *overrides, cwd=Path(store.root).parent,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["pope", "vizwiz_val", "sqa", "mmbench"])
def test_the_command_prints_it_last_and_loads_no_torch(name, given, commands, tmp_path):
    of = given(name)
    ended = command(commands, of, of.answers, Store(str(tmp_path / "store")))
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["benchmark"] == name
    assert found["num"] == {"pope": 8910, "vizwiz_val": 4319, "sqa": 2017, "mmbench": 1176}[name]
    assert ended.stderr.splitlines()[-1] == "False"


def test_the_command_names_what_is_wrong_in_one_line(pope, commands, tmp_path):
    short = tmp_path / "short.jsonl"
    short.write_text("".join(pope.answers.read_text().splitlines(keepends=True)[:-1]))
    ended = command(commands, pope, short, Store(str(tmp_path / "store")))
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "xmas: pope: 1 of 8910 questions have no answer, the first is 20002910" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (Rescore(), "name the benchmark, as in benchmark=pope"),
        (Submission(), "name the benchmark, as in benchmark=vqav2"),
    ],
)
def test_what_is_not_said_is_asked_for(goal, message, pope, tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(ValueError, match=message):
        goal.make(store)
    with pytest.raises(ValueError, match=r"answers=FILE|pope has no upload file; goal=rescore"):
        dataclasses.replace(goal, benchmark=pope.benchmark).make(store)


def test_a_submission_is_a_file_by_the_content_of_the_answers(given, tmp_path):
    pytest.importorskip("openpyxl", reason="openpyxl is in the extra `dev`")
    store, of = Store(str(tmp_path / "store")), given("mmbench")
    with pytest.raises(ValueError, match=r"submission.answers=FILE"):
        Submission(of.benchmark).make(store)
    (questions,) = of.files  # of which the sheet gets the first eleven, as the answers
    with with_texts(
        {
            file: "".join(file.read_text().splitlines(keepends=True)[:lines])
            for file, lines in ((questions, 12), (of.answers, 11))
        }
    ):
        few = dataclasses.replace(of.benchmark, count=None)
        path = Path(Submission(few, str(of.answers)).make(store))
    assert path.name == "mmbench_dev_20230712.xlsx"
    assert path.parent.parent == tmp_path / "store" / "submission"
