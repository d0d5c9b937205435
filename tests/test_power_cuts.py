"""The power fails at any moment: the same command continues and ends with the same results.

A sample of moments; `experiments/reliability/power_cuts.py` tries all of them.
"""

import dataclasses
import random
import tempfile
from pathlib import Path

import pytest
from power_cut import JOBS, OFTEN, disk, fitted, record, results, run
from toy import Toy, shared

from xmas.store import Store
from xmas.target.target import Target
from xmas.training.fit.module import FitModule

CUTS = {"subset": 12, "tokens": 4, "vision": 3, "clip": 3, "activations": 4, "target": 3}
HOW = ("dropped", "names", "random")


@pytest.mark.parametrize("name", JOBS)
def test_after_a_power_cut_the_same_command_ends_with_the_same_results(toy: Toy, tmp_path, name):
    job, rng = JOBS[name], random.Random(name)
    moments, expected = record(job, toy, tmp_path / "whole")
    for number in range(CUTS.get(name, 2)):
        moment, how = rng.choice(moments), HOW[number % len(HOW)]
        root = tmp_path / str(number)
        disk(moment, root, rng, how)
        assert run(job, toy, root) == expected, (number, how, moment.what)


@pytest.mark.parametrize("name", ["subset", "vision"])
def test_what_is_finished_stays_finished(toy: Toy, tmp_path: Path, name):
    """Also if nothing that was not synced reaches the disk."""
    moments, expected = record(JOBS[name], toy, tmp_path / "whole")
    disk(moments[-1], tmp_path / "cut", random.Random(0), "dropped")
    assert results(tmp_path / "cut") == expected


def test_the_end_of_a_fit_costs_no_step_of_it(toy: Toy, tmp_path, monkeypatch):
    """Its checkpoint stays until what was trained is on the disk, and needs no other place."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no folder"))
    for stage in fitted(toy):
        toy.store.get(stage)
    store, target = shared(toy, tmp_path), dataclasses.replace(toy.target(), hardware=OFTEN)
    steps, write = [], Target._write
    step = FitModule.training_step

    def counted(self, *batch):
        steps.append(batch)
        return step(self, *batch)

    def fails(self, model, out: Path) -> None:
        write(self, model, out)
        if out.name != "rehearsal":
            raise OSError("the power is cut")

    monkeypatch.setattr(FitModule, "training_step", counted)
    with monkeypatch.context() as patched:
        patched.setattr(Target, "_write", fails)
        with pytest.raises(OSError, match="power"):
            store.get(target)
    assert steps
    steps.clear()
    folder = Store(str(tmp_path)).get(target)
    assert not steps
    assert not list(folder.glob("*ckpt*"))
