"""Rows held out as benchmarks: both rules by hand, losses by transformers' own forward, the way
from a configuration to the tables, and that no row is both ranked and scored.
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from choices import EVERY_SELECTOR
from test_held_out import SHOWN, record, save
from toy import Toy, declared, picture_name, recorded, shared, turns

from xmas.cli.config import build
from xmas.data.held_out import HeldOutSplit, HoldOut
from xmas.data.pool import Pool
from xmas.evaluation import answer_losses
from xmas.evaluation.answer_losses import AnswerLosses, answers_of, spans
from xmas.evaluation.benchmarks.heldout import HeldOutLikelihood, HeldOutMatch
from xmas.evaluation.generation.settings import Generation
from xmas.evaluation.given_answers import GivenAnswers, OfGivenAnswers
from xmas.evaluation.outcomes import Kept
from xmas.evaluation.protocol import AnswerError, Benchmark
from xmas.evaluation.reference import Reference
from xmas.evaluation.scores import Scores
from xmas.models.chat.labels import IGNORED, Tokens
from xmas.models.vlm import LoadedModel, hidden_states
from xmas.results.audit import Audit
from xmas.results.report import Report
from xmas.results.report.pool_rows import pool_rows
from xmas.results.table import Table
from xmas.selection.methods.random import Random
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Store

SUITE = {"heldout": HeldOutLikelihood, "heldout_match": HeldOutMatch}


# The rules.


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> tuple[Pool, Store]:
    """Rows 2, 3, 7 and 8 of the pool of `test_held_out`: two near copies of a picture, another
    picture, a text.
    """
    folder = tmp_path_factory.mktemp("heldout")
    save(folder / "images")
    sources = {2: "a", 3: "a", 7: "b", 8: "b"}
    records = [record(row) | {"source": sources.get(row, "c")} for row in range(len(SHOWN))]
    (folder / "pool.json").write_text(json.dumps(records))
    (folder / "rows.json").write_text("[2, 3, 7, 8]")
    hold_out = HoldOut(rows=str(folder / "rows.json"))
    pool = Pool(str(folder / "pool.json"), str(folder / "images"), hold_out=hold_out)
    return pool, Store(str(folder / "store"))


ANSWERS = GivenAnswers(
    row=np.array([0, 0, 1, 2, 3]),
    tokens=np.array([2, 1, 4, 2, 1]),
    short=np.array([True, False, True, True, False]),
    loss=np.array([1.0, 0.5, 2.0, 3.0, 0.5]),
    right=np.array([2, 0, 3, 1, 1]),
)


def test_the_likelihood_is_that_of_a_token(split):
    pool, store = split
    scored = HeldOutLikelihood(pool).score_given(ANSWERS, store)
    assert scored.num == 5
    assert scored.score == pytest.approx(100 * math.exp(-7 / 10))
    assert scored.detail["loss"] == pytest.approx(0.7)
    assert (scored.detail["tokens"], scored.detail["rows"]) == (10, 4)
    a, b = scored.detail["sources"]["a"], scored.detail["sources"]["b"]
    assert a == pytest.approx({"score": 100 * math.exp(-0.5), "loss": 0.5, "tokens": 7, "num": 3})
    assert b == pytest.approx(
        {"score": 100 * math.exp(-3.5 / 3), "loss": 3.5 / 3, "tokens": 3, "num": 2}
    )
    # Rows 2 and 3 show one picture, so they are one unit.
    outcomes = scored.outcomes
    assert outcomes is not None
    assert outcomes.keys.tolist() == ["2", "7", "8"]
    assert outcomes.gained[:, 0].tolist() == [3.5, 3.0, 0.5]
    assert outcomes.counted[:, 0].tolist() == [7, 2, 1]


def test_a_match_is_the_share_of_tokens_that_are_the_first_choice(split):
    pool, store = split
    scored = HeldOutMatch(pool).score_given(ANSWERS, store)
    assert scored.num == 3
    assert scored.score == pytest.approx(100 * (1 + 3 / 4 + 1 / 2) / 3)
    assert scored.detail["exact"] == pytest.approx(100 / 3)
    assert scored.detail["sources"] == {
        "a": {"score": 87.5, "exact": 50.0, "num": 2},
        "b": {"score": 50.0, "exact": 0.0, "num": 1},
    }
    assert scored.outcomes is not None
    assert scored.outcomes.keys.tolist() == ["2", "7"]
    assert scored.outcomes.gained[:, 0].tolist() == [1.75, 0.5]
    assert scored.outcomes.counted[:, 0].tolist() == [2, 1]


def test_without_a_short_answer_there_is_no_match(split):
    pool, store = split
    none = dataclasses.replace(ANSWERS, short=np.zeros(5, dtype=bool))
    scored = HeldOutMatch(pool).score_given(none, store)
    assert (scored.score, scored.num) == (None, 0)
    assert scored.detail == {"invalid": "no row held out has a short answer"}


def test_saved_outcomes_give_the_likelihood_of_any_weights(split, tmp_path):
    """As the bootstrap weighs units: 100 exp(-sum of losses / sum of tokens)."""
    from xmas.results.statistics.bootstrap import over_questions

    pool, store = split
    outcomes = HeldOutLikelihood(pool).score_given(ANSWERS, store).outcomes
    assert outcomes is not None
    outcomes.save(tmp_path / "outcomes.npz")
    kept = Kept.read(tmp_path / "outcomes.npz")
    draws = over_questions([kept], 5, np.random.default_rng(3))[:, 0]
    weights = np.random.default_rng(3).standard_exponential((5, 3), dtype=np.float32)
    wanted = 100 * np.exp(-(weights @ [3.5, 3, 0.5]) / (weights @ [7, 2, 1]))
    np.testing.assert_allclose(draws, wanted, rtol=1e-6)


def test_it_is_a_benchmark_whose_texts_are_not_scored(split):
    pool, store = split
    for benchmark in (HeldOutLikelihood(pool), HeldOutMatch(pool)):
        assert isinstance(benchmark, Benchmark)
        assert isinstance(benchmark, OfGivenAnswers)
        asked = benchmark.asked(store)
        assert [question.question_id for question in asked] == ["2.0", "3.0", "7.0", "8.0"]
        assert [bool(question.image) for question in asked] == [True, True, True, False]
        with pytest.raises(AnswerError, match="scored from a target's probabilities"):
            benchmark.score([], store)
    with pytest.raises(ValueError, match=r"pool mine has no rows held out; set pool\.hold_out"):
        HeldOutLikelihood(Pool("pool.json", "images", name="mine")).scored_rows()


# The pass over the answers.


@pytest.fixture(scope="module")
def rows(toy: Toy, tmp_path_factory) -> Pool:
    """Rows of every kind: several rounds, several images, none, an empty answer, a cut one."""
    names = [picture_name(number) for number in (1, 2, 5)]
    asked = "<image>\nWhat is drawn?"
    records: list[dict[str, Any]] = [
        {"image": names[0], "conversations": turns(asked, "a navy box", "Which colour?", "navy")},
        {"conversations": turns("Say it twice.", "It, it; and it again, and it again")},
        {"image": names[:2], "conversations": turns("<image> or <image>?", "box", asked, "disc")},
        {"image": names[2], "conversations": turns(asked, "")},
        {"image": names[2], "conversations": turns(asked, "a crimson bar. " * 20)},
        {"image": names[2], "conversations": turns(asked, "bar")},
    ]
    records[2]["image"] = names
    folder = tmp_path_factory.mktemp("rows")
    (folder / "rows.json").write_text(json.dumps(records))
    return Pool(str(folder / "rows.json"), str(toy.folder / "images"), name="rows")


@pytest.fixture(scope="module")
def losses(toy: Toy, rows: Pool) -> AnswerLosses:
    return AnswerLosses(dataclasses.replace(toy.target(), max_length=120), rows, "float32")


def test_losses_are_those_of_transformers_own_forward(toy, rows, losses):
    answers = losses.read(toy.store)
    table = losses.on_pool.tokens().open(toy.store)
    loaded = losses.target.load(toy.store)
    examples = rows.open(toy.store)
    assert answers.row.tolist() == [0, 0, 1, 2, 2, 4, 5]  # 3 has an empty answer
    assert answers.short.tolist() == [True, True, False, True, True, False, True]
    place = 0
    for row in (0, 1, 2, 4, 5):
        logits, labels = own_logits(loaded, table[row], examples.images_of(row))
        for which in runs_of(labels):
            log_shares = logits[which - 1].log_softmax(dim=1)
            loss = -log_shares[torch.arange(len(which)), labels[which]].sum()
            first = log_shares.argmax(dim=1) == labels[which]
            assert answers.tokens[place] == len(which)
            assert answers.loss[place] == pytest.approx(float(loss), rel=1e-4)
            assert answers.right[place] == int(first.sum())
            place += 1
    assert place == len(answers.row)
    assert recorded(toy.store, losses) == declared(losses)


def own_logits(loaded: LoadedModel, tokens: Tokens, images: list[Any]) -> Any:
    """Logits and labels of one row by the model's own forward."""
    from PIL import Image

    ids = torch.from_numpy(tokens.whole(loaded.model.config.image_token_id))[None]
    pictures = [Image.open(image).convert("RGB") for image in images]
    inputs = {"pixel_values": loaded.processor.pictures(pictures)["pixels"]} if images else {}
    with torch.no_grad():
        logits = loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits
    return logits[0], torch.from_numpy(tokens.whole_labels())


def runs_of(labels: torch.Tensor) -> Iterator[torch.Tensor]:
    """The positions of every answer: labels without a gap."""
    places = (labels != IGNORED).nonzero()[:, 0]
    gaps = (places.diff() > 1).nonzero()[:, 0] + 1
    yield from places.tensor_split(gaps)


def test_a_row_does_not_depend_on_its_batch_nor_on_an_interruption(
    toy, losses, tmp_path, monkeypatch
):
    whole = losses.read(toy.store)
    for tokens, mark in ((1, 2), (10**6, 512)):
        monkeypatch.setattr(answer_losses, "BATCH_TOKENS", tokens)
        monkeypatch.setattr(answer_losses, "_MARK_ROWS", mark)
        out = tmp_path / str(tokens)
        out.mkdir()
        calls = count_batches(monkeypatch, stop=3 if tokens == 1 else None)
        if tokens == 1:
            with pytest.raises(KeyboardInterrupt):
                losses.compute(toy.store, out)
            calls = count_batches(monkeypatch, stop=None)
        losses.compute(toy.store, out)
        assert len(calls) == (3 if tokens == 1 else 1)  # of five, a mark of two was finished
        loss, right = np.load(out / "values.npy").T
        np.testing.assert_allclose(loss, whole.loss, rtol=1e-5)
        assert right.tolist() == whole.right.tolist()
        assert np.load(out / "answers.npy")[:, 0].tolist() == whole.row.tolist()


def count_batches(monkeypatch, *, stop: int | None) -> list[int]:
    """Notes every batch; the one of number `stop` is interrupted."""
    calls: list[int] = []

    def noted(*arguments: Any, **options: Any) -> Any:
        if stop is not None and len(calls) + 1 == stop:
            raise KeyboardInterrupt
        calls.append(1)
        return hidden_states(*arguments, **options)

    monkeypatch.setattr(answer_losses, "hidden_states", noted)
    return calls


def test_half_precision_is_close_and_not_the_same(toy, losses, tmp_path):
    half = dataclasses.replace(losses, precision="bfloat16")
    half.compute(toy.store, tmp_path)
    found, wanted = np.load(tmp_path / "values.npy")[:, 0], losses.read(toy.store).loss
    np.testing.assert_allclose(found, wanted, rtol=0.05)
    assert not np.allclose(found, wanted, rtol=1e-5)


def test_a_loss_that_is_not_finite_names_the_row(toy, losses, tmp_path, monkeypatch):
    own = answer_losses.answer_token_statistics

    def broken(*arguments: Any, **options: Any) -> Any:
        statistics, answered = own(*arguments, **options)
        statistics[-1] = math.nan
        return statistics, answered

    monkeypatch.setattr(answer_losses, "answer_token_statistics", broken)
    monkeypatch.setattr(answer_losses, "BATCH_TOKENS", 10**6)
    with pytest.raises(FloatingPointError, match=r"rows\.json: row 4: .* nan in float32"):
        losses.compute(toy.store, tmp_path)


def test_the_first_token_of_a_row_is_predicted_by_nothing():
    ids = np.arange(7, dtype=np.int32)
    labelled = np.array([1, 1, 0, 1, 0, 0, 1], dtype=bool)
    assert spans(Tokens(ids, labelled)) == [(1, 2), (3, 4), (6, 7)]
    after_image = Tokens(ids, labelled, (0,), (np.zeros(2, dtype=np.int32),))
    assert spans(after_image) == [(0, 2), (3, 4), (6, 7)]


def test_what_the_end_of_a_row_cuts_is_not_short(toy, losses):
    table = losses.on_pool.tokens().open(toy.store)
    loaded = losses.target.load(toy.store)
    length = len(table[0])
    short = [
        answers_of(table, loaded.tokenizer, most)[:2, 2].tolist() for most in (length + 1, length)
    ]
    assert short == [[1, 1], [1, 0]]


# The whole way.


@pytest.fixture(scope="module")
def scores(toy: Toy) -> Scores:
    pool = dataclasses.replace(toy.pool, hold_out=HoldOut(share=0.3))
    subset = Subset(Ranking(pool, Random()), rows=13, text_only="ranked")
    target = toy.target(subset)
    suite: dict[str, Any] = {name: benchmark(pool) for name, benchmark in SUITE.items()}
    return Scores(suite, target, Reference(target), Generation(precision="float32"))


def test_a_target_is_scored_tabled_and_reported(toy, scores, tmp_path):
    store = shared(toy, tmp_path)  # without the scores of other tests
    text = scores.make(store)
    assert [line.split()[0] for line in text.splitlines()[1:]] == list(SUITE)
    records = {}
    for part in scores.parts():
        folder = store.get(part)
        assert recorded(store, part) == declared(part)
        record = json.loads((folder / "score.json").read_text())
        role = json.loads((folder / "run.json").read_text())["role"]
        records[role, record["benchmark"]] = record
        assert not (folder / "answers.jsonl").exists()
    assert len(records) == 4
    ratio = math.exp(
        records["reference", "heldout"]["detail"]["loss"]
        - records["subset", "heldout"]["detail"]["loss"]
    )
    table = Table(draws=20)
    lines = table.frame(store)
    ours = lines[(lines.reference_group == table_group(scores)) & (lines.selector == "random")]
    relative = ours[ours.benchmark == "heldout"].relative.item()
    assert relative == pytest.approx(100 * ratio)
    assert ours[ours.benchmark == "ARP"].relative.item() == relative
    assert {"heldout: drawn", "heldout: zoo", "heldout_match: drawn"} <= set(ours.benchmark)
    drawn = ours[ours.benchmark == "heldout: drawn"].score.item()
    assert drawn == records["subset", "heldout"]["detail"]["sources"]["drawn"]["score"]
    assert "heldout by source" in table.make(store)
    page = Report(pool=scores.target.pool, examples=1).make(store)
    text = Path(page.splitlines()[-1]).read_text(encoding="utf-8")
    assert "heldout_match by source" in text
    assert "12 rows held out, 29 to choose from" in text
    (ours,) = (
        evidence
        for evidence in table.evidence(store)
        if evidence.leaderboard.reference_group == table_group(scores)
    )
    shown = pool_rows(ours, toy.pool)  # without a suite in the command
    rest = scores.target.pool.open(store)
    assert [shown[row] for row in range(29)] == [rest[row] for row in range(29)]


def table_group(scores: Scores) -> str:
    from xmas.evaluation.reference import group_of

    return group_of(scores.target)


def test_the_audit_sees_no_picture_of_a_row_held_out_in_the_pool(toy, scores):
    audit = Audit(scores.target.subset, suite=scores.suite)
    record = json.loads((toy.store.get(audit) / "audit.json").read_text())
    nowhere = {how: {"pool": 0, "subset": 0} for how in ("same", "near")}
    assert record["benchmarks"] == {"heldout": nowhere, "heldout_match": nowhere}


def test_no_row_is_both_ranked_and_scored(toy, compose):
    """Of every selector, and of what it reads: all pools are the rest but the one scored."""
    overrides = (
        *toy.overrides(), "suite=heldout", "pool.hold_out.share=0.3",
        f"every.column.file={toy.scores}",
    )  # fmt: skip
    cfg = compose(*overrides, *EVERY_SELECTOR)
    scores = build(cfg.scores)
    rest = scores.target.pool
    split = rest.held_out_split
    inside = set(split.numbers(toy.store, "held_out.npy").tolist())
    outside = set(split.numbers(toy.store, "pool.npy").tolist())
    assert not inside & outside
    assert inside | outside == set(range(41))
    assert inside
    for selector in build(cfg.every).values():
        for pool in pools_in(selector):
            assert pool == rest, selector
    for part in scores.parts():
        ranked = [*pools_in(part.target), *pools_in(part.benchmark)]
        assert ranked
        assert all(pool == rest for pool in ranked)
        (losses,) = (stage for stage in part.inputs() if isinstance(stage, AnswerLosses))
        assert losses.pool == split.held_out != rest


def pools_in(value: Any) -> Iterator[Pool]:
    """The pools in an object, at any depth; a split has the whole one."""
    if isinstance(value, Pool):
        yield value
    elif isinstance(value, dict | list | tuple):
        for element in value.values() if isinstance(value, dict) else value:
            yield from pools_in(element)
    elif dataclasses.is_dataclass(value) and not isinstance(value, HeldOutSplit):
        for field in dataclasses.fields(value):
            yield from pools_in(getattr(value, field.name))


def test_a_quick_sweep_and_a_control_leave_given_answers_alone(toy, scores):
    quick = dataclasses.replace(scores, quick=5)
    assert quick.benchmarks() == scores.suite
    shuffled = dataclasses.replace(scores, generation=Generation(control="shuffled"))
    with pytest.raises(ValueError, match=r"heldout generates nothing.*~suite\.heldout"):
        shuffled.parts()[0].check(toy.store)


@pytest.mark.parametrize("share", [0.3, 0.05])
def test_the_estimate_and_the_doctor_know_the_rows_before_they_are_split(
    toy, compose, tmp_path, share
):
    overrides = (
        *toy.overrides(), "suite=heldout", f"pool.hold_out.share={share}",
        f"store.root={tmp_path}", "estimate.of=scores", "doctor.images=exists",
    )  # fmt: skip
    cfg = compose(*overrides)
    page = build(cfg.estimate).make(Store(str(tmp_path)))
    count = int(share * 41)
    assert f"{count} of 41 rows of files held out" in page
    assert f"answers of {count} rows held out under a target" in page
    assert f"the target learns {41 - count} rows" in page
    report = build(cfg.doctor).make(Store(str(tmp_path)))
    assert "41 rows, 34 with an image (13 different), 7 text-only" in report
    assert "benchmark heldout: rows not held out yet; the first run splits the pool" in report
    assert not (tmp_path / "held_out").exists()
