"""A part of a benchmark: drawn by seed, scored by the benchmark's rule, with its standard error."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from test_bench_mmbench import write as write_mmbench
from test_bench_mme import write as write_mme

from xmas.cli.config import build
from xmas.evaluation.benchmarks.gqa import Gqa
from xmas.evaluation.benchmarks.sqa import Sqa
from xmas.evaluation.benchmarks.textvqa import TextVqa
from xmas.evaluation.benchmarks.vizwiz import VizWizVal
from xmas.evaluation.benchmarks.vqav2 import VqaV2Val
from xmas.evaluation.outcomes import Outcomes
from xmas.evaluation.protocol import AnswerError, Benchmark
from xmas.evaluation.quick import Quick, copy_rows, standard_error
from xmas.evaluation.reference import Reference
from xmas.evaluation.scores import Scores
from xmas.store import Store, describe

STORE = Store("nowhere")
COUNT = 53


def write_gqa(folder: Path) -> Gqa:
    rows = [
        {"question_id": f"{number:02}", "text": f"Is it {number}?", "image": f"{number % 7}.jpg"}
        for number in range(COUNT)
    ]
    (folder / "asked.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows))
    truth = {row["question_id"]: {"answer": "yes"} for row in rows}
    (folder / "truth.json").write_text(json.dumps(truth))
    return Gqa(str(folder / "asked.jsonl"), str(folder / "truth.json"), str(folder), count=COUNT)


def said(benchmark, texts) -> list[dict]:
    return [
        {"question_id": asked.question_id, "prompt": asked.prompt, "text": text}
        for asked, text in zip(benchmark.asked(STORE), texts, strict=True)
    ]


def test_a_part_is_drawn_by_its_seed_and_scored_with_its_standard_error(tmp_path):
    """Nine right of twelve: 75, and as for any mean 100 * sqrt(p (1 - p) / (n - 1))."""
    part = Quick(write_gqa(tmp_path), 12)
    assert isinstance(part, Benchmark)
    asked = part.asked(STORE)
    assert asked == Quick(part.whole, 12).asked(STORE)
    assert asked != Quick(part.whole, 12, seed=1).asked(STORE)
    places = [part.whole.asked(STORE).index(one) for one in asked]
    assert places == sorted(places)
    assert len(places) == 12
    scored = part.score(said(part, ["yes"] * 9 + ["no"] * 3), STORE)
    assert (scored.score, scored.num) == (75, 12)
    assert scored.detail["standard_error"] == pytest.approx(100 * (0.75 * 0.25 / 11) ** 0.5)
    assert scored.detail["of"] == COUNT


def test_a_part_never_passes_for_the_whole(toy, tmp_path):
    whole = write_gqa(tmp_path)
    part = Quick(whole, 12, seed=3)
    assert (part.name, part.metric) == ("gqa_quick", "accuracy")
    assert part.split == "testdev_balanced, 12 drawn with seed 3"
    assert part.max_new_tokens == whole.max_new_tokens
    assert describe(part) != describe(Quick(whole, 13, seed=3))
    target = toy.target()
    scores = Scores({"a": whole}, target, Reference(target))
    assert scores.benchmarks() == {"a": whole}
    few = dataclasses.replace(scores, quick=12)
    assert few.benchmarks() == {"a_quick": Quick(whole, 12)}


def test_answers_of_the_whole_are_foreign_to_a_part(tmp_path):
    part = Quick(write_gqa(tmp_path), 12)
    with pytest.raises(AnswerError, match="was not asked"):
        part.score(said(part.whole, ["yes"] * COUNT), STORE)
    with pytest.raises(AnswerError, match="1 of 12 questions have no answer"):
        part.score(said(part, ["yes"] * 12)[1:], STORE)


def test_more_than_there_is_is_everything(tmp_path):
    part = Quick(write_gqa(tmp_path), 300)
    assert part.asked(STORE) == part.whole.asked(STORE)
    assert part.score(said(part, ["yes"] * COUNT), STORE).detail["standard_error"] == 0


@pytest.mark.parametrize("size", [2, 3, 4])
def test_both_questions_of_an_image_and_every_task_are_drawn(tmp_path, size):
    """MME's tasks weigh the same however many images they have."""
    part = Quick(write_mme(tmp_path, "results"), size)
    asked = part.asked(STORE)
    counts = Counter(one.question_id for one in asked)
    assert set(counts.values()) == {2}
    assert {str(name).split("/")[0] for name in counts} == {"count", "artwork"}
    assert len(asked) == 4
    scored = part.score(said(part, ["yes"] * 4), STORE)
    assert scored.score == 100  # half of the questions and no pair, in both tasks


@pytest.mark.parametrize("seed", range(5))
def test_all_rotations_of_a_question_are_drawn(tmp_path, seed):
    part = Quick(write_mmbench(tmp_path), 2, seed)
    asked = part.asked(STORE)
    assert len({int(one.question_id) % 1_000_000 for one in asked}) == 1
    assert len(asked) == len(asked[0].extra["options"])
    two = Quick(part.whole, 5, seed)
    assert two.score(said(two, ["A"] * len(two.asked(STORE))), STORE).num == 2


def test_the_standard_error_is_how_far_parts_lie_from_the_whole():
    """Of ratios too: 400 draws of 60 units from 3,000, whose counts differ."""
    rng = np.random.default_rng(0)
    counted = rng.integers(1, 5, 3000).astype(float)
    gained = rng.binomial(counted.astype(int), 0.7).astype(float)

    def drawn(rows) -> Outcomes:
        return Outcomes.of(
            {int(row): {"": (gained[row], counted[row])} for row in rows}, {"": 100.0}
        )

    parts = [drawn(rng.choice(3000, 60, replace=False)) for _ in range(400)]
    spread = np.std([part.score() for part in parts])
    assert np.mean([standard_error(part) for part in parts]) == pytest.approx(spread, rel=0.1)


def test_one_unit_has_no_standard_error():
    with pytest.raises(ValueError, match="1 units of questions have no standard error"):
        standard_error(Outcomes.mean({"a": 1.0}))
    with pytest.raises(ValueError, match="quick 1: at least 2"):
        Quick(None, 1)


def test_rows_are_copied_from_each_kind_of_question_file(tmp_path):
    listed = tmp_path / "asked.json"
    listed.write_text(json.dumps([{"id": "3", "a": 1}, {"id": "4"}, {"id": 5}]))
    copy_rows(listed, tmp_path / "part.json", {"3", "5"}, Sqa.facts)
    assert json.loads((tmp_path / "part.json").read_text()) == [{"id": "3", "a": 1}, {"id": 5}]
    with pytest.raises(AnswerError, match=r"asked.xlsx: quick samples from questions in .jsonl"):
        copy_rows(tmp_path / "asked.xlsx", tmp_path / "part.xlsx", {"3"}, Sqa.facts)


def test_a_part_of_every_benchmark_of_the_demo_is_scored(compose, tmp_path):
    """All formats that the suite has, through their own rules."""
    cfg = compose(
        *("experiment=smoke", "suite=demo_all", "demo_bench.questions=40"),
        f"store.root={tmp_path}",
    )
    store, suite = build(cfg.store), build(cfg.suite)
    assert len(suite) >= 9
    for name, whole in suite.items():
        part = Quick(whole, 10)
        asked = part.asked(store)
        assert 10 <= len(asked) < len(whole.asked(store)), name
        lines = [
            {"question_id": one.question_id, "prompt": one.prompt, "text": ("A", "yes")[n % 2]}
            for n, one in enumerate(asked)
        ]
        scored = part.score(lines, store)
        assert 0 < scored.num <= len(asked)
        assert scored.detail["of"] == len(whole.asked(store))
        assert scored.detail["standard_error"] >= 0


def test_parts_of_owners_files_are_drawn_by_the_ids_they_are_asked_by(tmp_path):
    """VQAv2's and TextVQA's questions stand under a key; TextVQA's are asked by their image."""
    rows = [{"question_id": number, "image_id": f"x{number}"} for number in range(4)]
    for under, kept, of in (
        ("questions", {"1", "3"}, VqaV2Val),
        ("data", {"x1", "x3"}, TextVqa),
    ):
        (tmp_path / "all.json").write_text(json.dumps({"info": 1, under: rows}))
        copy_rows(tmp_path / "all.json", tmp_path / "part.json", kept, of.facts)
        held = json.loads((tmp_path / "part.json").read_text())
        assert held == {"info": 1, under: [rows[1], rows[3]]}
    (tmp_path / "val.json").write_text(json.dumps([{"image": "a.jpg"}, {"image": "b.jpg"}]))
    copy_rows(tmp_path / "val.json", tmp_path / "part.json", {"b.jpg"}, VizWizVal.facts)
    assert json.loads((tmp_path / "part.json").read_text()) == [{"image": "b.jpg"}]
