"""MM-Vet: four questions whose grades are averaged by hand."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from fake_judge import FakeJudge, prompt_of

from xmas.evaluation.benchmarks import mmvet
from xmas.evaluation.benchmarks.mmvet import PROMPT, MMVet, grade
from xmas.evaluation.judge.judge import Judge, Judging
from xmas.evaluation.protocol import AnswerError
from xmas.store import Store

TRUTH = {
    "v1_0": ("What is x?", "-1<AND>-5", ["ocr", "math"]),
    "v1_1": ("What is it?", "a cat<OR>a kitten", ["rec"]),
    "v1_2": ("How many?", "3", ["math", "ocr"]),
    "v1_3": ("Who?", "the man", ["rec", "know", "gen"]),
}
ANSWERS = [{"question_id": number, "text": f"said {number}"} for number in range(4)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def bench(tmp_path: Path) -> MMVet:
    (tmp_path / "llava-mm-vet.jsonl").write_text(
        "".join(
            json.dumps({"question_id": number, "image": f"v1_{number}.png", "text": question})
            + "\n"
            for number, (question, _, _) in enumerate(TRUTH.values())
        )
    )
    truth = {
        name: {"question": question, "answer": answer, "capability": capability}
        for name, (question, answer, capability) in reversed(TRUTH.items())
    }
    (tmp_path / "mm-vet.json").write_text(json.dumps(truth))
    return MMVet(
        Judging(Judge("fake", at_once=2, tries=1), runs=1, max_tokens=3),
        questions=str(tmp_path / "llava-mm-vet.jsonl"),
        annotations=str(tmp_path / "mm-vet.json"),
        images=str(tmp_path / "images"),
        count=None,
    )


def on_file(bench: MMVet, *runs: list[str]) -> MMVet:
    """Reviews as the evaluator's grade file has them; a list of replies for each run."""
    graded = {
        name: {"model": ["fake"] * len(runs), "content": list(said), "score": [0.0] * len(runs)}
        for name, said in zip(TRUTH, zip(*runs, strict=True), strict=True)
    }
    path = Path(bench.annotations).with_name(f"x_fake-grade-{len(runs)}runs.json")
    path.write_text(json.dumps(graded))
    judging = dataclasses.replace(bench.judging, runs=len(runs))
    return dataclasses.replace(bench, reviews=str(path), judging=judging)


def test_questions_are_those_of_the_file(bench, store):
    assert [one.prompt for one in bench.asked(store)] == [row[0] for row in TRUTH.values()]
    assert bench.asked(store)[2].image == Path(bench.images) / "v1_2.png"
    with pytest.raises(AnswerError, match="4 found, 218 expected"):
        dataclasses.replace(bench, count=218).asked(store)


def test_the_last_line_of_the_prompt_waits_for_its_grade(bench, store):
    prompts = bench.prompts(ANSWERS[::-1], store)
    assert list(prompts) == list(TRUTH)
    assert prompts["v1_0"] == f"{PROMPT}\nWhat is x? | -1 <AND> -5 | said 0 | "
    assert prompts["v1_1"].endswith("\nWhat is it? | a cat <OR> a kitten | said 1 | ")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0.5", 0.5),
        ("1.0 |", 1.0),
        ("0", 0.0),
        (" 0.4\n", 0.4),
        ("1", 1.0),
        ("", None),
        ("1.1", None),
        ("-0.5", None),
        ("0.5.", None),
        ("0.5\nbecause", None),
        ("nan", None),
        ("The grade", None),
    ],
)
def test_a_grade_is_the_number_before_the_first_space(text, found):
    assert grade(text) == found


def test_capabilities_and_their_integrations_by_hand(bench, store):
    scored = on_file(bench, ["0.5", "1.0", "0.0", "0.2"]).score(ANSWERS, store)
    assert scored.score == pytest.approx(42.5)
    assert scored.num == 4
    assert scored.detail["capability"] == pytest.approx(
        {"gen": 20, "know": 20, "math": 25, "ocr": 25, "rec": 60}
    )
    assert scored.detail["integration"] == pytest.approx(
        {"gen_know_rec": 20, "math_ocr": 25, "rec": 100}
    )


def test_runs_are_averaged_and_their_spread_is_the_populations(bench, store):
    scored = on_file(bench, ["0.5", "1.0", "0.0", "0.1"], ["0.5", "1.0", "0.0", "0.5"]).score(
        ANSWERS, store
    )
    assert scored.detail["runs"] == pytest.approx([40, 50])
    assert scored.score == pytest.approx(45)
    assert scored.detail["std"] == pytest.approx(5)
    assert scored.detail["capability"]["gen"] == pytest.approx(30)
    assert scored.outcomes is not None
    assert scored.outcomes.gained[:, 0].tolist() == pytest.approx([0.5, 1, 0, 0.3])
    assert scored.outcomes.pictures.tolist() == [0, 1, 2, 3]


def test_a_grade_that_cannot_be_read_is_not_nought(bench, store):
    """The evaluator's own file says 0.0 for all of them; only the replies are looked at."""
    scored = on_file(bench, ["0.5", "Correct", "0.0", "0.1"]).score(ANSWERS, store)
    assert scored.score is None
    assert scored.detail["invalid"] == "1 of 4 reviews cannot be read"
    assert scored.detail["unread"] == [{"question_id": "v1_1", "run": 0}]


def test_the_judge_gets_a_prompt_alone(bench, store):
    with FakeJudge(lambda body, before: "0.5") as fake:
        judge = dataclasses.replace(bench.judging.judge, base_url=fake.url)
        judging = dataclasses.replace(bench.judging, judge=judge)
        scored = dataclasses.replace(bench, judging=judging).score(ANSWERS, store)
    assert scored.score == pytest.approx(50)
    assert len(fake.requests) == 4
    assert {prompt_of(body) for body in fake.requests} == set(
        bench.prompts(ANSWERS, store).values()
    )
    assert all(len(body["messages"]) == 1 for body in fake.requests)
    assert fake.requests[0]["temperature"] == 0
    assert fake.requests[0]["max_tokens"] == 3


def test_a_prompt_is_read_from_the_evaluator_and_checked(bench, store, tmp_path, monkeypatch):
    script = tmp_path / "mm-vet_evaluator.py"
    script.write_text('import openai\n\nprompt = """Grade  this.\n\nQ | A\n"""\n\n\ndef f(): ...\n')
    with_script = dataclasses.replace(bench, prompt=str(script))
    with pytest.raises(AnswerError, match=r"mm-vet_evaluator.py: not the official wording"):
        with_script.prompts(ANSWERS, store)
    words = hashlib.sha256(b"Grade this. Q | A").hexdigest()
    monkeypatch.setattr(mmvet, "_OFFICIAL", words)
    asked: Any = with_script.prompts(ANSWERS, store)["v1_2"]
    assert asked == "Grade  this.\n\nQ | A\n\nHow many? | 3 | said 2 | "
    own = tmp_path / "own.txt"
    own.write_text("My words.")
    named = dataclasses.replace(bench, prompt=str(own), wording="mine")
    assert named.prompts(ANSWERS, store)["v1_2"] == "My words.\n\nHow many? | 3 | said 2 | "
    script.write_text("prompt = read()\n")
    with pytest.raises(AnswerError, match="assigns no text to `prompt`"):
        with_script.prompts(ANSWERS, store)
    assert with_script.metric == "grade by fake"
    assert named.metric == "grade by fake, mine prompt"
    assert bench.metric == "grade by fake, our prompt"


def test_the_evaluators_own_file_has_its_names(bench, store, tmp_path):
    path = bench.submit(ANSWERS[::-1], store, tmp_path)
    assert json.loads(path.read_text()) == {f"v1_{each}": f"said {each}" for each in range(4)}
    with pytest.raises(AnswerError, match="1 of 4 questions have no answer"):
        bench.submit(ANSWERS[1:], store, tmp_path)


def test_a_question_without_truth_and_a_torn_grade_file_are_named(bench, store):
    filed = on_file(bench, ["0.5", "1.0", "0.0", "0.2"])
    graded = json.loads(Path(filed.reviews).read_text())
    graded["v1_2"]["model"] = []
    Path(filed.reviews).write_text(json.dumps(graded))
    with pytest.raises(AnswerError, match="v1_2 has 1 contents by 0 models"):
        filed.score(ANSWERS, store)
    Path(bench.annotations).write_text('{"v1_0": {"question": "", "answer": ""}}')
    with pytest.raises(AnswerError, match=r"mm-vet.json has no `v1_1`"):
        bench.prompts(ANSWERS, store)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (ANSWERS[1:], "1 of 4 questions have no answer, the first is 'v1_0'"),
        ([*ANSWERS, ANSWERS[0]], "answers 'v1_0' a second time"),
        ([*ANSWERS, {"question_id": 9, "text": ""}], "answers 'v1_9', which was not asked"),
    ],
)
def test_missing_doubled_and_foreign_answers_are_refused(bench, store, answers, message):
    with pytest.raises(AnswerError, match=message):
        on_file(bench, ["1.0"] * 4).score(answers, store)
