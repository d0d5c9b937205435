"""Shards on disk: what is marked is there, whoever measured it; what is missing is named."""

import dataclasses
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.multiprocessing import start_processes
from toy import Toy, shared

from xmas.attention.shards import Shards
from xmas.features.trajectories import Measuring, side_by_side
from xmas.models.vlm import load

BOUNDS = np.array([0, 3, 10, 11])
STEPS = (2, 5)


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return Shards(tmp_path / "shards", BOUNDS, STEPS, 3)


def values(shard: int, steps: int = 2, add: float = 0) -> np.ndarray:
    rows = int(BOUNDS[shard + 1] - BOUNDS[shard])
    return np.random.default_rng(shard).random((rows, steps, 3)).astype(np.float32) + add


def test_parts_of_several_processes_are_one_result_in_the_order_of_the_pool(shards, tmp_path):
    shards.write(0, STEPS, values(0), rank=1)
    shards.write(1, [5], values(1)[:, 1:], rank=0)
    assert shards.done().tolist() == [[True, True], [False, True], [False, False]]
    assert shards.todo([5]).tolist() == [2]
    assert shards.todo(STEPS).tolist() == [1, 2]
    shards.write(1, [2], values(1)[:, :1], rank=2)
    shards.write(2, STEPS, values(2), rank=2)
    order = np.array([4, 0, 12, 7, 8, 9, 10, 11, 1, 3, 6])
    found = shards.merge(tmp_path / "values.npy", order, 13)
    wanted = np.full((13, 2, 3), np.nan, dtype=np.float32)
    wanted[order] = np.concatenate([values(0), values(1), values(2)])
    assert np.array_equal(found, wanted, equal_nan=True)
    assert np.array_equal(np.load(tmp_path / "values.npy"), wanted, equal_nan=True)
    assert found.dtype == np.float32
    assert np.array_equal(shards.column(5), wanted[order][:, 1])
    assert sorted(part.name for part in shards.folder.iterdir()) == ["0", "1", "2"]


def test_what_is_missing_is_named(shards, tmp_path):
    shards.write(0, STEPS, values(0))
    shards.write(1, [2], values(1)[:, :1], rank=4)
    message = r"shards: 3 shards are not measured, the first is shard 1 \(rows 3 to 9 of the plan\)"
    with pytest.raises(ValueError, match=message + " at step 5; run the same command again"):
        shards.merge(tmp_path / "values.npy", np.arange(11), 11)
    assert not (tmp_path / "values.npy").exists()
    with pytest.raises(ValueError, match=r"1 shards are not measured, the first is shard 2 \(rows"):
        shards.column(2)


def test_a_mark_follows_its_values(shards, monkeypatch):
    """Killed while the values go to the disk: they count as not measured."""
    shards.write(0, STEPS, values(0))

    def die(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(np.memmap, "flush", die)
        with pytest.raises(KeyboardInterrupt):
            shards.write(1, STEPS, values(1))
    assert shards.todo(STEPS).tolist() == [1, 2]
    shards.write(1, STEPS, values(1, add=1))
    shards.write(2, STEPS, values(2))
    assert np.array_equal(shards.column(2)[3:10], values(1, add=1)[:, 0])


def test_a_part_that_was_being_made_when_its_process_died_is_made_again(shards):
    (shards.folder / ".0").mkdir(parents=True)
    (shards.folder / ".0" / "values.npy").write_bytes(b"half")
    assert not shards.done().any()
    shards.write(0, STEPS, values(0))
    assert np.array_equal(np.load(shards.folder / "0" / "values.npy")[:3], values(0))


def test_parts_of_another_plan_are_refused(shards):
    shards.write(0, STEPS, values(0))
    other = dataclasses.replace(shards, k=4)
    with pytest.raises(ValueError, match=r"values\.npy: shape \(11, 2, 3\), expected \(11, 2, 4\)"):
        other.write(0, STEPS, np.zeros((3, 2, 4), dtype=np.float32))


def test_a_pool_without_a_measured_row_is_all_nan(tmp_path):
    shards = Shards(tmp_path / "shards", np.zeros(1, dtype=int), STEPS, 3)
    found = shards.merge(tmp_path / "values.npy", np.zeros(0, dtype=int), 5)
    assert found.shape == (5, 2, 3)
    assert np.isnan(found).all()


@pytest.fixture
def measuring(toy: Toy, tmp_path: Path) -> Measuring:
    """Of a fitted proxy whose steps nobody has measured."""
    toy.store.get(toy.proxy)
    for name in ("store", "out"):
        (tmp_path / name).mkdir()
    store = shared(toy, tmp_path / "store", "proxy")
    return Measuring(toy.trajectories, store, tmp_path / "out")


@pytest.fixture
def one_thread():
    """Others do not survive a fork, and another number of them rounds otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def forked(function, arguments, nprocs: int) -> None:
    """As `spawn`, which pickles what it passes, but without two imports of torch."""
    copies = pickle.loads(pickle.dumps((function, arguments)))
    start_processes(*copies, nprocs, start_method="fork")


def test_two_processes_give_the_file_of_one(toy: Toy, measuring, one_thread, monkeypatch):
    """Over gloo, each a share of the shards; one killed process's shard is named, then made."""
    monkeypatch.setattr("xmas.features.trajectories.spawn", forked)
    side_by_side(2, measuring)
    model = load(toy.store.get(toy.start)).model
    shards, scan = measuring.shards(model), measuring.scan(model)
    assert shards.count > 2
    marks = [np.load(shards.folder / str(rank) / "done.npy") for rank in (0, 1)]
    assert all(mark.any() for mark in marks)
    assert (marks[0] + marks[1] == 1).all()  # each shard once
    place = measuring.out / "values.npy"
    shards.merge(place, scan.plan.order, len(scan.reasons))
    whole = measuring.store.get(toy.trajectories) / "values.npy"
    assert place.read_bytes() == whole.read_bytes()
    shutil.rmtree(shards.folder / "1")
    with pytest.raises(ValueError, match=r"shards are not measured, the first is shard 1 "):
        shards.merge(place, scan.plan.order, len(scan.reasons))
    place.unlink()
    measuring.finish()
    assert place.read_bytes() == whole.read_bytes()
    assert not shards.folder.exists()
