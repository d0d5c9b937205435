"""The start point as the reference, where no target is trained on all rows."""

import dataclasses
import json

import pytest
import torch
from scored import Shelves
from toy import Toy, declared, recorded, shared

from xmas.data.held_out import HoldOut
from xmas.evaluation.benchmarks.heldout import HeldOutLikelihood
from xmas.evaluation.reference import Reference, group_of
from xmas.evaluation.scores import Score
from xmas.models.vlm import load
from xmas.results.leaderboard import leaderboards
from xmas.results.report import Report
from xmas.results.score_records import runs
from xmas.results.table import Table
from xmas.store import Store, describe, key
from xmas.store.label import label


@pytest.fixture(scope="module")
def base(toy: Toy):
    (base,) = Reference(toy.target(), seeds=[3, 4], base=True).targets()
    return base


def test_it_is_another_result_of_the_same_group(toy, base):
    (trained,) = Reference(toy.target(), seeds=[3]).targets()
    assert key(base) != key(trained)
    assert group_of(base) == group_of(trained) == group_of(toy.target())
    assert "untrained" not in describe(trained)
    assert label(base) == "untrained, seed 3, pool toy"
    with pytest.raises(ValueError, match=r"reference.base=true with reference.seeds=\[\]: .*give"):
        Reference(toy.target(), seeds=[], base=True)


@pytest.mark.parametrize("lora", [True, False])
def test_its_weights_are_those_of_the_start_point(toy, base, lora, tmp_path):
    target = base if lora else dataclasses.replace(base, lora=None)
    start = load(toy.store.get(toy.start)).model.state_dict()
    loaded = target.load(toy.store).model.state_dict()
    assert start.keys() == loaded.keys()
    for name, weight in start.items():
        torch.testing.assert_close(loaded[name], weight, rtol=0, atol=0)
    assert recorded(toy.store, target) == declared(target)
    assert json.loads((toy.store.get(target) / "cost.json").read_text())["rows"] == 0


def test_scores_are_relative_to_it_where_no_target_is_trained_on_all_rows(tmp_path):
    add = Shelves(tmp_path)
    add("base", "gqa", 40.0, role="base", budget=0.0, rows=0)
    add("random", "gqa", 50.0)
    (board,) = leaderboards(runs(Store(str(tmp_path))))
    assert [(row.selector, row.is_reference) for row in board.rows] == [
        ("base", True), ("random", False),
    ]  # fmt: skip
    assert board.rows[1].relative["gqa"].mean == 125
    text = Table(selector="random", draws=5).make(Store(str(tmp_path)))
    assert "The reference is the start point before any training" in text
    add("full", "gqa", 80.0)
    (board,) = leaderboards(runs(Store(str(tmp_path))))
    relative = {row.selector: row.relative["gqa"].mean for row in board.rows}
    assert relative == {"full": 100, "base": 50, "random": 62.5}


def test_a_target_is_scored_against_its_start_point(toy, tmp_path):
    target = toy.target()
    toy.store.get(target)
    store = shared(toy, tmp_path, "target")
    pool = dataclasses.replace(toy.pool, hold_out=HoldOut(share=0.3))
    (base,) = Reference(target, base=True).targets()
    losses = []
    for scored in (target, base):
        folder = store.get(Score(HeldOutLikelihood(pool), scored))
        losses.append(json.loads((folder / "score.json").read_text())["detail"]["loss"])
    run = json.loads((folder / "run.json").read_text())
    assert (run["selector"], run["role"], run["rows"], run["budget"]) == ("base", "base", 0, 0)
    lines = Table(draws=5).frame(store)
    relative = lines[(lines.selector == "random") & (lines.benchmark == "ARP")].relative.item()
    assert relative == pytest.approx(100 * torch.tensor(losses[1] - losses[0]).exp().item())
    page = Report(pool=pool, examples=1).make(store)
    with open(page.splitlines()[-1], encoding="utf-8") as file:
        assert "of the scores of its start point, untrained (ARP)" in file.read()
