"""Spherical k-means: Lloyd's steps, what it reads, what it repeats, and empty clusters."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from toy import HARDWARE

from xmas.features.clustering.assigner import Assigner
from xmas.features.clustering.spherical import (
    Spherical,
    refilled,
    spherical_kmeans,
    training_rows,
)
from xmas.store import Stage, Store, content
from xmas.store.progress import bar

CPU = torch.device("cpu")


def groups(count: int = 211, width: int = 13, k: int = 5, noise: float = 0.3) -> np.ndarray:
    """Rows around k directions, of any length."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(k, width))
    rows = centres[rng.integers(0, k, count)] + noise * rng.normal(size=(count, width))
    return (rows * rng.uniform(0.5, 2, (count, 1))).astype(np.float16)


def clustered(values, k: int, *, seed: int = 3, iterations: int = 20, block: int = 17, **options):
    assign = Assigner(values, block, CPU)
    centroids = spherical_kmeans(
        assign, np.arange(len(values)), k, seed=seed, iterations=iterations, **options
    )
    return centroids, assign(
        np.arange(len(values)), torch.from_numpy(centroids), progress=bar(label="all")
    )[0]


@pytest.mark.parametrize("iterations", [1, 2, 20])
def test_the_steps_are_those_of_faiss_from_the_same_start(iterations):
    faiss = pytest.importorskip("faiss")
    values, k = groups(noise=1.0), 7
    centroids, labels = clustered(values, k, iterations=iterations)
    start, _ = clustered(values, k, iterations=0)
    model = faiss.Kmeans(
        values.shape[1], k, niter=iterations, spherical=True, min_points_per_centroid=1
    )
    model.train(values.astype(np.float32), init_centroids=start)
    assert np.abs(model.centroids - centroids).max() < 1e-5
    assert model.index.search(values.astype(np.float32), 1)[1][:, 0].tolist() == labels.tolist()


def test_centroids_are_the_directions_of_their_rows():
    values = groups()
    centroids, labels = clustered(values, 5)
    for cluster in range(5):
        total = values[labels == cluster].astype(np.float64).sum(axis=0)
        assert centroids[cluster] == pytest.approx(total / np.linalg.norm(total), abs=1e-5)


def test_no_iteration_makes_rows_less_like_their_centroids():
    values = groups(noise=2.0)
    likeness = []
    for iterations in range(9):
        centroids, labels = clustered(values, 11, iterations=iterations)
        likeness.append(float((values.astype(np.float64) * centroids[labels]).sum()))
    assert (np.diff(likeness) > -1e-3).all()
    assert likeness[-1] > likeness[0] + 10


def test_the_same_seed_gives_the_same_clusters_another_seed_others():
    values = groups(noise=2.0)
    one, other = clustered(values, 7), clustered(values, 7)
    assert (one[0] == other[0]).all()
    assert (one[1] == other[1]).all()
    assert (one[1] != clustered(values, 7, seed=4)[1]).any()


def test_blocks_of_any_size_give_the_same_clusters():
    values = groups()
    wanted = clustered(values, 5, block=211)[1].tolist()
    for block in (1, 2, 29, 500):
        assert clustered(values, 5, block=block)[1].tolist() == wanted


class Watched:
    """An array that knows how much of it was asked for at once."""

    def __init__(self, held: np.ndarray) -> None:
        self.held = held
        self.asked: list[int] = []

    def __getitem__(self, rows) -> np.ndarray:
        found = self.held[rows]
        self.asked.append(len(found))
        return found

    def __len__(self) -> int:
        return len(self.held)


def test_a_file_is_read_block_by_block(monkeypatch):
    watched = Watched(groups())
    assign = Assigner(watched.held, 17, CPU)
    monkeypatch.setattr(assign, "values", watched)
    spherical_kmeans(assign, np.arange(211), 5, seed=0, iterations=2)
    assert max(watched.asked) == 17
    assert sum(watched.asked) == 5 + 2 * 211  # the start, and two passes


@pytest.mark.parametrize("rows", [[5, 9, 7], [7, 6, 5], [4, 5, 6], [3], []], ids=str)
def test_rows_are_read_in_any_order(rows):
    values = groups()
    found = Assigner(values, 17, CPU).read(np.array(rows, dtype=np.int64))
    assert found.tolist() == values[rows].astype(np.float32).tolist()


def test_a_fixed_point_ends_the_work(monkeypatch):
    watched = Watched(groups(noise=0.01))
    assign = Assigner(watched.held, 300, CPU)
    monkeypatch.setattr(assign, "values", watched)
    spherical_kmeans(assign, np.arange(211), 5, seed=0, iterations=1000)
    assert len(watched.asked) < 20


def test_of_equal_centroids_the_first_is_taken():
    values = np.array([[1, 0], [0, 1], [0, 0]], dtype=np.float16)
    centroids = torch.tensor([[0.0, 1], [1, 0], [1, 0], [0, 1]])
    labels, nearness = Assigner(values, 2, CPU)(np.arange(3), centroids, progress=bar(label=""))
    assert labels.tolist() == [1, 0, 0]  # a row of zeros is like none of them
    assert nearness.tolist() == [1, 1, 0]


def test_empty_clusters_start_again_at_the_rows_that_fit_worst():
    labels = np.array([0, 0, 0, 3, 3, 5])
    nearness = np.array([0.9, 0.2, 0.3, 0.2, 0.1, 0.0], dtype=np.float32)
    empty, again = refilled(labels, nearness, 6)
    assert empty.tolist() == [1, 2, 4]
    # Row 5 is alone in its cluster; row 4 leaves row 3 alone; then row 1, then row 2.
    assert again.tolist() == [4, 1, 2]
    empty, again = refilled(np.zeros(3, np.int64), np.full(3, 0.5, np.float32), 3)
    assert (empty.tolist(), again.tolist()) == ([1, 2], [0, 1])  # of equals the first


def test_rows_that_are_all_alike_leave_clusters_empty_without_harm():
    values = np.ones((11, 3), dtype=np.float16)
    centroids, labels = clustered(values, 4)
    assert labels.tolist() == [0] * 11
    assert np.isfinite(centroids).all()


def test_an_empty_cluster_finds_rows():
    """Started on copies of one row, so that only the first of them gets any."""
    values = groups(noise=0.05)
    values[:100] = values[0]
    filled = 0
    for seed in range(8):
        start, _ = clustered(values, 6, seed=seed, iterations=0)
        if len(np.unique(start, axis=0)) < 6:  # two of them are the same
            assert len(set(clustered(values, 6, seed=seed)[1].tolist())) == 6
            filled += 1
    assert filled > 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_named(bad):
    values = groups()
    values[101, 3] = bad
    with pytest.raises(ValueError, match="spherical k-means: row 101 of the features is not fin"):
        clustered(values, 3, seed=1)


def test_fewer_rows_than_clusters_are_refused():
    with pytest.raises(ValueError, match="spherical k-means: 8 clusters of 7 rows; set k lower"):
        clustered(groups(7), 8)


def test_rows_are_sampled_where_there_are_many_for_a_centroid():
    assert training_rows(100, 10, None, 0).tolist() == list(range(100))
    assert training_rows(100, 10, 10, 0).tolist() == list(range(100))
    sampled = training_rows(100, 10, 3, 0)
    assert len(set(sampled.tolist())) == 30
    assert (np.diff(sampled) > 0).all()
    assert sampled.tolist() == training_rows(100, 10, 3, 0).tolist()
    assert sampled.tolist() != training_rows(100, 10, 3, 1).tolist()


@dataclasses.dataclass(frozen=True)
class Given(Stage):
    """A feature out of a file."""

    kind: ClassVar[str] = "given"

    file: str = content()

    def compute(self, store: Store, out: Path) -> None:
        shutil.copy(self.file, out / "values.npy")


@pytest.fixture
def given(tmp_path: Path) -> tuple[Given, Store]:
    np.save(tmp_path / "given.npy", groups())
    return Given(str(tmp_path / "given.npy")), Store(str(tmp_path / "store"))


def test_the_stage_writes_labels_centroids_and_sizes(given):
    features, store = given
    folder = store.get(Spherical(features, k=5, seed=3, block=17, hardware=HARDWARE))
    centroids, labels = clustered(groups(), 5, iterations=50)
    assert np.load(folder / "labels.npy").tolist() == labels.tolist()
    assert (np.load(folder / "centroids.npy") == centroids).all()
    sizes = json.loads((folder / "sizes.json").read_text())
    assert sizes == [*np.bincount(labels, minlength=5).tolist(), 0]
    assert {path.name for path in folder.iterdir()} == {
        "labels.npy", "centroids.npy", "sizes.json", "meta.json",
    }  # fmt: skip


def test_rows_without_the_feature_are_labelled_k_and_change_nothing(given, tmp_path):
    _, store = given
    values = groups()
    missing = np.arange(len(values)) % 7 == 3
    np.save(tmp_path / "whole.npy", values[~missing])
    values[missing] = np.nan
    np.save(tmp_path / "holes.npy", values)
    folders = [
        store.get(Spherical(Given(str(tmp_path / f"{name}.npy")), k=5, per_centroid=9, block=17))
        for name in ("whole", "holes")
    ]
    whole, holes = (np.load(folder / "labels.npy") for folder in folders)
    assert (holes[missing] == 5).all()
    assert holes[~missing].tolist() == whole.tolist()
    one, other = (np.load(folder / "centroids.npy") for folder in folders)
    assert (one == other).all()
    sizes = json.loads((folders[1] / "sizes.json").read_text())
    assert sizes == np.bincount(holes, minlength=6).tolist()
    assert sizes[5] == missing.sum() > 0


def test_a_sample_trains_and_all_rows_are_assigned(given):
    features, store = given
    stage = Spherical(features, k=5, per_centroid=9, hardware=HARDWARE)
    labels = np.load(store.get(stage) / "labels.npy")
    assert len(labels) == 211
    whole = np.load(store.get(dataclasses.replace(stage, per_centroid=None)) / "labels.npy")
    assert (labels != whole).any()


def test_an_interrupted_run_goes_on_where_it_was(given, tmp_path, monkeypatch):
    features, store = given
    stage = Spherical(features, k=11, iterations=9, hardware=HARDWARE)
    whole = store.get(stage)
    calls: list[str] = []
    original = Assigner.__call__

    def dies_at(number: int):
        def call(self, *args, **options):
            calls.append(f"{options['progress'].label}, {options['progress'].note}")
            if len(calls) == number:
                raise KeyboardInterrupt
            return original(self, *args, **options)

        return call

    other = Store(str(tmp_path / "other"))
    monkeypatch.setattr(Assigner, "__call__", dies_at(4))
    with pytest.raises(KeyboardInterrupt):
        other.get(stage)
    monkeypatch.setattr(Assigner, "__call__", dies_at(10**6))
    folder = other.get(stage)
    assert calls[:5] == [f"clusters, iteration {number} of 9" for number in (1, 2, 3, 4, 4)]
    for name in ("labels.npy", "centroids.npy", "sizes.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
