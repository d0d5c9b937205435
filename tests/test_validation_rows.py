"""Rows of benchmarks as pools: their wording, their right answers, the draw, and who saw them."""

import json
from collections import Counter
from pathlib import Path

import pytest
from official import ASKED, small_gqa
from toy import Toy, picture_name

from xmas.cli.config import build
from xmas.estimate.assumed import Assumed
from xmas.estimate.census import count
from xmas.evaluation.benchmarks.llava_wild import LlavaWild
from xmas.evaluation.benchmarks.mmvet import MMVet
from xmas.evaluation.benchmarks.textvqa import TextVqaNoOcr
from xmas.evaluation.benchmarks.vizwiz import VizWiz
from xmas.evaluation.protocol import SHORT, AnswerError, Referenced
from xmas.evaluation.validation_rows import ValidationRows, ValidationSets
from xmas.features.influence.gradients import Gradients
from xmas.selection.methods.icons import Icons
from xmas.store import Store

BENCH = ["suite=demo_all", "demo_bench.questions=22", "demo_bench.concepts=61"]
SCORES = {"mme": 1000.0}  # of five tasks; others have 100


@pytest.fixture(scope="module")
def bench(compose, tmp_path_factory):
    """The demo's benchmarks, small, in the official formats; and the store that has them."""
    return build(compose(*BENCH).suite), Store(str(tmp_path_factory.mktemp("bench")))


def test_right_answers_earn_the_full_score_by_the_official_rules(bench):
    suite, store = bench
    assert len(suite) == 9
    for name, benchmark in suite.items():
        references = benchmark.references(store)
        lines = [
            {"question_id": question.question_id, "prompt": question.prompt, "text": answer,
             **question.extra}
            for question, answer in zip(benchmark.asked(store), references, strict=True)
        ]  # fmt: skip
        assert None not in references
        assert len(set(references)) > 1, name
        assert benchmark.score(lines, store).score == pytest.approx(SCORES.get(name, 100.0)), name


def test_rows_have_the_benchmark_s_wording_answers_and_images(bench):
    suite, store = bench
    for name in ("mme", "mmbench", "sqa"):
        pool = ValidationRows(suite[name], rows=1000).pool
        rows = pool.open(store)
        questions = {question.prompt: question for question in suite[name].asked(store)}
        for row in range(len(rows)):
            ((prompt, answer),) = rows.conversation(row)
            image = questions[prompt].image
            images = [path.read_bytes() for path in rows.images_of(row)]
            content = image.read_bytes() if isinstance(image, Path) else image
            assert len(images) == (image is not None)
            assert image is None or images == [content] or name == "mme"  # two tasks ask alike
            assert answer
    mme = ValidationRows(suite["mme"], rows=1000).pool.open(store)
    assert set(mme.sources) == set(suite["mme"].tasks)
    report = json.loads((store.get(ValidationRows(suite["mmbench"], 1000)) / "left_out.json")
                        .read_text())  # fmt: skip
    indices = [question.question_id for question in suite["mmbench"].asked(store)]
    repeated = sum(index >= 1_000_000 for index in indices)
    assert report == {"asked": len(indices), "in another order": repeated, "no single answer": []}
    assert repeated > 0


def test_a_draw_is_seeded_in_the_order_of_the_file_and_copies_an_image_once(toy: Toy, tmp_path):
    benchmark = small_gqa(tmp_path / "gqa", toy.folder / "images")
    draws = []
    for seed in (0, 0, 1):
        stage = ValidationRows(benchmark, rows=3, seed=seed)
        store = Store(str(tmp_path / f"store{len(draws)}"))
        records = json.loads((store.get(stage) / "rows.json").read_text())
        draws.append([record["id"] for record in records])
        assert draws[-1] == sorted(draws[-1])
        assert len(draws[-1]) == 3
        for record in records:
            text, answer, picture = ASKED[record["id"]]
            assert [turn["value"] for turn in record["conversations"]] == [
                f"<image>\n{text}{SHORT}", answer]  # fmt: skip
            assert record["source"] == "gqa"
            copy = store.get(stage) / "images" / record["image"]
            assert copy.read_bytes() == (toy.folder / "images" / picture_name(picture)).read_bytes()
    assert draws[0] == draws[1] != draws[2]
    everything = ValidationRows(benchmark, rows=99)
    assert len(everything.pool.open(store)) == 5
    assert len(list((store.get(everything) / "images").iterdir())) == 3
    assert count(everything.pool, None, Store(str(tmp_path / "none")), Assumed()).rows == 99


def textvqa(folder: Path, images: Path, answers: dict[str, list[str]]) -> TextVqaNoOcr:
    folder.mkdir(parents=True, exist_ok=True)
    annotated = [
        {"image_id": Path(picture_name(number)).stem, "question": f"what is {name}?",
         "answers": given}
        for number, (name, given) in enumerate(answers.items())
    ]  # fmt: skip
    (folder / "asked.json").write_text(json.dumps({"data": annotated}))
    for row in annotated:
        (images / f"{row['image_id']}.jpg").write_bytes(b"")
    return TextVqaNoOcr(*[str(folder / "asked.json")] * 2, str(images), count=None)


def test_questions_without_a_single_answer_are_left_out_and_reported(tmp_path, caplog):
    (tmp_path / "images").mkdir()
    answers = {
        "led": ["Two"] * 2 + ["two", "2", "2", "three", "a", "b", "c", "d"],  # five of them are 2
        "tied": ["red"] * 5 + ["blue"] * 5,
        "agreed": ["Nokia"] * 10,
    }
    benchmark = textvqa(tmp_path / "textvqa", tmp_path / "images", answers)
    store = Store(str(tmp_path / "store"))
    assert benchmark.references(store) == ["Two", None, "Nokia"]
    folder = store.get(stage := ValidationRows(benchmark))
    report = json.loads((folder / "left_out.json").read_text())
    assert report["no single answer"] == [Path(picture_name(1)).stem]
    assert len(stage.pool.open(store)) == 2
    assert "1 of 3 questions have no single right answer and are left out" in caplog.text
    tied = textvqa(tmp_path / "tied", tmp_path / "images", {"tied": answers["tied"]})
    with pytest.raises(AnswerError, match="none of 1 questions has a single right answer"):
        store.get(ValidationRows(tied))


def test_answers_of_judged_benchmarks(compose, tmp_path):
    suite = build(compose("suite=demo_judged", *BENCH[1:], "judge=local", "judge.model=x").suite)
    wild = next(one for one in suite.values() if isinstance(one, LlavaWild))
    mmvet = next(one for one in suite.values() if isinstance(one, MMVet))
    store = Store(str(tmp_path))
    assert [text for text in wild.references(store) if text]
    truth = json.loads(store.find(mmvet.annotations).read_text())
    expected = [
        None if "<AND>" in row["answer"] or "<OR>" in row["answer"] else row["answer"]
        for row in truth.values()
    ]
    assert Counter(mmvet.references(store)) == Counter(expected)


def test_other_files_and_refusals(toy: Toy, tmp_path):
    benchmark = small_gqa(tmp_path / "test", toy.folder / "images")
    small_gqa(tmp_path / "val", toy.folder / "images")
    secret = VizWiz("questions.jsonl", str(tmp_path))
    assert not isinstance(secret, Referenced)
    suite = {"gqa": benchmark, "vizwiz": secret}
    files = {"gqa": {"questions": str(tmp_path / "val" / "asked.jsonl"), "split": "val"}}
    sets = ValidationSets(suite, only=["gqa"], rows={"gqa": 2}, files=files)
    stage = sets.pools()["gqa"].annotations.stage
    assert (stage.rows, stage.benchmark.split) == (2, "val")
    assert stage.benchmark.annotations == benchmark.annotations
    assert ValidationSets(suite, only=["gqa"]).pools()["gqa"].annotations.stage.rows == 500
    for options, message in (
        ({"only": ["pope"]}, r"validation\.only has pope; the suite has gqa, vizwiz"),
        ({}, r"vizwiz: the right answers .* leave it out: validation\.only=\[gqa\]"),
        ({"only": ["gqa"], "files": {"gqa": {"truth": "x"}}}, r"files\.gqa has truth; its fields"),
        ({"only": ["gqa"], "files": {"mme": {}}}, r"validation\.files has mme; the suite has gqa"),
    ):
        with pytest.raises(ValueError, match=message):
            ValidationSets(suite, **options).pools()


def test_the_sub_tasks_of_mme_are_its_sources(bench, toy: Toy):
    suite, _ = bench
    gradients = Gradients(toy.target(), width=71)
    selector = Icons(gradients, validation=ValidationSets(suite, only=["gqa", "mme"]))
    assert selector.sub_tasks == ["mme"]
    assert Icons(gradients, "DIR", validation=selector.validation).sub_tasks == []
