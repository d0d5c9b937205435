"""The demo's LLaVA-Bench and MM-Vet, out of the configuration, under a judge on this machine."""

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from fake_judge import FakeJudge, Fault, completion, prompt_of

from xmas.cli.config import build
from xmas.doctor import Doctor
from xmas.evaluation.endpoint.responses import EndpointError
from xmas.evaluation.generation.settings import Generation
from xmas.evaluation.protocol import Benchmark, Judged
from xmas.evaluation.rescore import Rescore
from xmas.evaluation.scores import Score
from xmas.store import Store, describe, key

SMALL = ["suite=demo_judged", "demo_bench.questions=15", "demo_bench.concepts=61", "judge=local"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("judged")))


@pytest.fixture
def benchmark(compose) -> Callable[..., Benchmark]:
    """A function of a benchmark's name and overrides that gives it in the demo's size."""

    def built(name: str, *overrides: str) -> Benchmark:
        return build(compose(*SMALL, *overrides).suite[name])

    return built


def graded(body: dict, before: int) -> str:
    """MM-Vet's prompt has a table, LLaVA-Bench's two assistants."""
    return "0.4" if " | " in prompt_of(body) else "8 6\nBoth saw it."


@pytest.mark.parametrize(
    ("name", "score", "metric"),
    [
        ("llava_wild", 75, "relative_score by fake, demo rules"),
        ("mmvet", 40, "grade by fake, our prompt"),
    ],
)
def test_the_demos_files_go_through_the_same_scorers(store, benchmark, name, score, metric):
    with FakeJudge(graded) as fake:
        bench = benchmark(name, "judge.model=fake", f"judge.base_url={fake.url}")
        assert isinstance(bench, Benchmark)
        assert isinstance(bench, Judged)
        asked = bench.asked(store)
        answers = [{"question_id": one.question_id, "text": "a red cat"} for one in asked]
        scored = bench.score(answers, store)
    assert len(asked) == 3
    assert len(fake.requests) == 9  # three runs
    assert scored.score == pytest.approx(score)
    assert bench.metric == metric
    assert bench.split == "demo"


def lines(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_an_answers_file_and_a_reviews_file_are_scored_without_a_judge(store, benchmark, tmp_path):
    reviews = lines(
        tmp_path / "reviews.jsonl",
        ({"question_id": each, "content": "10 9"} for each in range(3)),
    )
    bench = benchmark(
        "llava_wild", "judge.model=gpt-4-0314", "judge.base_url=http://127.0.0.1:9/v1",
        "suite.llava_wild.judging.runs=1", f"suite.llava_wild.reviews={reviews}",
    )  # fmt: skip
    answers = lines(
        tmp_path / "answers.jsonl",
        ({"question_id": one.question_id, "text": ""} for one in bench.asked(store)),
    )
    said = json.loads(Rescore(bench, answers).make(store))
    assert said["score"] == 90
    assert said["metric"] == "relative_score by gpt-4-0314, demo rules"
    assert (said["benchmark"], said["split"], said["num"]) == ("llava_wild", "demo", 3)


@pytest.mark.parametrize("name", ["llava_wild", "mmvet"])
def test_the_doctor_looks_at_what_a_judge_is_told_and_asks_nothing(
    toy, store, compose, benchmark, name
):
    with FakeJudge(graded) as fake:
        bench = benchmark(name, "judge.model=fake", f"judge.base_url={fake.url}")
        store.get(build(compose(*SMALL).demo_bench))
        report = Doctor(toy.pool, {name: bench}, images="exists").make(store)
    assert "3 questions, demo, any number is accepted, each with what a judge is shown" in report
    assert fake.requests == []


def test_a_judge_without_a_name_or_key_ends_a_run_before_the_first_answer(
    toy, benchmark, monkeypatch
):
    for overrides, message in (
        ([], r"judge\.model is not set"),
        (["judge=openai", "judge.model=m"], "OPENAI_API_KEY is not set"),
    ):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        stage = Score(benchmark("mmvet", *overrides), toy.target(), Generation())
        with pytest.raises(EndpointError, match=message):
            toy.store.get(stage)
        draft = toy.store.path(stage).with_name(f".{key(stage)}")
        assert {path.name for path in draft.iterdir()} == {
            *("error.txt", "attempts.json", "stage.json"),
        }
    assert not list(Path(toy.store.root).glob("demo_bench/*"))


def test_a_run_leaves_answers_reviews_and_score_and_its_key_nowhere(
    toy, benchmark, monkeypatch, caplog, capfd
):
    secret = "sk-secret-0123456789abcdef"
    monkeypatch.setenv("XMAS_TEST_JUDGE_KEY", secret)
    caplog.set_level(logging.DEBUG)

    def leaky(body: dict, before: int) -> Fault:
        said = f"{0.1 * len(prompt_of(body)):.0f} {secret}"
        busy = before == 0 and len(fake.requests) == 1
        return (
            Fault(429, f"not now, {secret}", {"Retry-After": "0.01"})
            if busy
            else (Fault(body=completion(said)))
        )

    with FakeJudge(leaky) as fake:
        overrides = [
            "judge.model=fake", f"judge.base_url={fake.url}",
            "judge.key_variable=XMAS_TEST_JUDGE_KEY",
        ]  # fmt: skip
        stage = Score(benchmark("mmvet", *overrides), toy.target(), Generation(4, "float32"))
        folder = toy.store.get(stage)
    record = json.loads((folder / "score.json").read_text())
    assert record["metric"] == "grade by fake, our prompt"
    assert record["score"] is None  # the lengths of prompts are no grades
    assert record["detail"]["invalid"] == "9 of 9 reviews cannot be read"
    assert len(fake.requests) == 10
    assert all(headers["Authorization"] == f"Bearer {secret}" for headers in fake.headers)
    (reviews,) = Path(toy.store.root).glob("reviews/*/reviews.jsonl")
    assert reviews.read_text().count("[key]") == 9
    captured = capfd.readouterr()
    assert "again in 0.01 s" in caplog.text
    assert secret not in caplog.text + captured.out + captured.err
    assert secret not in f"{stage} {describe(stage)}"
    written = [path for path in Path(toy.store.root).rglob("*") if path.is_file()]
    assert folder / "meta.json" in written
    assert not [path for path in written if secret.encode() in path.read_bytes()]
