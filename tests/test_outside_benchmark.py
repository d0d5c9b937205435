"""A benchmark from outside the package, one module and one YAML, works like any other.

It has questions and a score, and nothing else that the package's own have.
"""

import json
import sys

import pytest
from toy import COLOURS, PICTURES, Toy, draw

from xmas.cli.config import build
from xmas.evaluation.facts import Facts, facts_of, in_order
from xmas.evaluation.protocol import AnswerError, Benchmark
from xmas.store import Store

FILES = {
    "colours.py": '''\
"""Colours: which colour has the thing in the picture? Exact match, in per cent."""

import dataclasses
from typing import Any, ClassVar

from xmas.evaluation.json_files import answer_lines, by_key, image_below, json_lines
from xmas.evaluation.outcomes import Outcomes
from xmas.evaluation.protocol import Question, Scored, join
from xmas.store import Store, content, volatile


def key(row: dict[str, Any]) -> str:
    return str(row["question_id"])


@dataclasses.dataclass(frozen=True)
class Colours:
    """Split `test`; `questions` are JSON lines with question_id, text, image and answer."""

    name: ClassVar[str] = "colours"
    metric: ClassVar[str] = "accuracy"

    questions: str = content()  # a file: its content is part of the score's identity
    images: str = volatile()  # a folder: its path is not
    split: str = "test"
    max_new_tokens: int = 16

    def asked(self, store: Store) -> list[Question]:
        images = store.find(self.images)
        return [
            Question(row["question_id"], row["text"], image_below(images, row["image"]))
            for row in self.rows(store).values()
        ]

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        rows = self.rows(store)
        texts = join(rows, answer_lines(answers, self.name), key, benchmark=self.name)
        right = {name: texts[name].lower() == row["answer"] for name, row in rows.items()}
        return Scored(100 * sum(right.values()) / len(right), len(right), {}, Outcomes.mean(right))

    def rows(self, store: Store) -> dict[str, dict[str, Any]]:
        path = store.find(self.questions)
        return by_key(json_lines(path, "question_id", "text", "image", "answer"), key, path)
''',
    "benchmark/colours.yaml": """\
_target_: colours.Colours
questions: ${benchmarks}/colours/questions.jsonl
images: ${benchmarks}/colours/images
""",
    "suite/mine.yaml": """\
# @package _global_
defaults:
  - /benchmark@suite.colours: colours
""",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The module and YAMLs in a folder on the path, and questions about 13 drawings."""
    place = tmp_path_factory.mktemp("outside")
    for name, text in FILES.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")
    (place / "colours" / "images").mkdir(parents=True)
    lines = []
    for picture in range(PICTURES):
        draw(picture).save(place / "colours" / "images" / f"{picture}.png")
        answer = COLOURS[picture % len(COLOURS)]
        row = {"question_id": picture, "text": "Which colour?", "image": f"{picture}.png"}
        lines.append(json.dumps(row | {"answer": answer}) + "\n")
    (place / "colours" / "questions.jsonl").write_text("".join(lines))
    sys.path.insert(0, str(place))
    yield place
    sys.path.remove(str(place))
    sys.modules.pop("colours", None)


@pytest.fixture(scope="module")
def made(toy: Toy, compose, place, tmp_path_factory):
    """Builds a node of the configuration, composed as `--config-dir` does it."""
    store = tmp_path_factory.mktemp("store")
    shared = (
        *toy.overrides(),
        f"store.root={store}",
        "suite=mine",
        f"benchmarks={place}",
        "selector=random",
        "subset.fraction=0.5",
        f"hydra.searchpath=[file://{place}]",
    )
    allowed = frozenset({"colours"})
    return lambda node, *overrides: build(compose(*shared, *overrides)[node], allowed)


def test_it_is_a_benchmark_and_says_nothing_more(made):
    (benchmark,) = made("suite").values()
    assert isinstance(benchmark, Benchmark)
    assert type(benchmark).__module__ == "colours"
    assert facts_of(benchmark) == Facts()
    assert in_order(["colours", "mmvet", "gqa"]) == ["gqa", "mmvet", "colours"]


def test_it_joins_another_suite_on_the_command_line(made):
    suite = made("suite", "suite=demo", "+benchmark@suite.colours=colours")
    assert {"gqa", "colours"} < set(suite)


def test_the_doctor_checks_its_files(made, place):
    doctor, store = made("doctor"), made("store")
    report = doctor.make(store)
    assert "benchmark colours: questions: " in report
    assert (
        "OK    benchmark colours: 13 questions, test, any number is accepted, each with its truth; "
        "images all there" in report
    )
    image = place / "colours" / "images" / "3.png"
    image.rename(place / "3.png")
    with pytest.raises(ValueError, match=r"1 of 13 images missing: .*3\.png"):
        doctor.make(store)
    (place / "3.png").rename(image)
    absent = made("doctor", f"suite.colours.questions={place}/absent.jsonl")
    with pytest.raises(ValueError, match=r"there is no .*absent.jsonl\n.*~suite.colours"):
        absent.make(store)


def test_it_is_estimated_generated_scored_tabled_and_drawn_from(made):
    store: Store = made("store")
    estimate = made("estimate", "estimate.of=scores").make(store)
    assert "colours: 13 questions (counted)" in estimate
    scores = made("scores")
    listed = json.loads((store.get(scores) / "scores.json").read_text())
    assert [entry["name"] for entry in listed["subset"]] == ["colours"]
    folder, line = scores.make(store).splitlines()
    assert folder == str(store.path(scores))
    own, reference = (listed[role][0]["score"] for role in ("subset", "reference"))
    assert line.split() == ["colours", f"{own:.1f}", "reference", f"{reference:.1f}"]
    (score,) = (part for part in scores.parts() if part.target == scores.target)
    record = json.loads((store.get(score) / "score.json").read_text())
    assert (record["benchmark"], record["num"]) == ("colours", PICTURES)
    assert len((store.get(score) / "answers.jsonl").read_text().splitlines()) == PICTURES
    assert "colours" in made("table").make(store)
    drawn = made("scores", "scores.quick=5")
    listed = json.loads((store.get(drawn) / "scores.json").read_text())
    assert [entry["name"] for entry in listed["subset"]] == ["colours_quick"]
    (part,) = (part for part in drawn.parts() if part.target == drawn.target)
    record = json.loads((store.get(part) / "score.json").read_text())
    assert (record["num"], record["detail"]["of"]) == (5, PICTURES)
    with pytest.raises(AnswerError, match="colours: 13 of 13 questions have no answer"):
        scores.suite["colours"].score([], store)
