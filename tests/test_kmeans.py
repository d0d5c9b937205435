"""k-means: what it refuses, what it repeats, and what becomes of rows without a feature."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from xmas.features.clustering.kmeans import Clusters, kept_snapshots, kmeans, reduce_spectra, scaled
from xmas.store import Stage, Store, content

OPTIONS = {"seed": 1234, "iterations": 25, "per_centroid": None}


@dataclasses.dataclass(frozen=True)
class Given(Stage):
    """A feature out of a file."""

    kind: ClassVar[str] = "given"

    file: str = content()

    def compute(self, store: Store, out: Path) -> None:
        shutil.copy(self.file, out / "values.npy")


@pytest.fixture
def given(tmp_path: Path):
    """A stage whose result is an array, and the store it is in."""

    def put(values: np.ndarray) -> tuple[Given, Store]:
        np.save(tmp_path / "given.npy", values)
        return Given(str(tmp_path / "given.npy")), Store(str(tmp_path / "store"))

    return put


def test_points_that_are_not_finite_are_refused():
    points = np.ones((7, 3), dtype=np.float32)
    for bad in (np.nan, np.inf):
        points[5, 1] = bad
        with pytest.raises(ValueError, match=r"k-means: point 5 is not finite: \[ *1\. +(nan|inf)"):
            kmeans(points, 2, **OPTIONS)


def test_fewer_points_than_clusters_are_refused():
    with pytest.raises(ValueError, match=r"k-means: 8 clusters of 7 points; set clusters\.k lower"):
        kmeans(np.eye(7, dtype=np.float32), 8, **OPTIONS)


def test_as_many_clusters_as_points_is_no_error():
    labels = kmeans(np.eye(5, dtype=np.float32), 5, **OPTIONS)
    assert sorted(labels) == [0, 1, 2, 3, 4]


def test_separated_groups_are_found():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0, 0], [9, 1, 0], [2, 13, -5], [-17, 3, 8]], dtype=np.float32)
    group = rng.integers(0, 4, size=83)
    points = centres[group] + rng.normal(scale=0.1, size=(83, 3)).astype(np.float32)
    labels = kmeans(points, 4, **OPTIONS)
    pairs = set(zip(group.tolist(), labels.tolist(), strict=True))
    assert len(pairs) == len(set(labels.tolist())) == 4  # one to one


def test_the_same_seed_gives_the_same_clusters_another_seed_others():
    points = np.random.default_rng(0).random((601, 5)).astype(np.float32)
    labels = kmeans(points, 7, **OPTIONS)
    assert (labels == kmeans(points, 7, **OPTIONS)).all()
    assert labels.min() == 0
    assert labels.max() == 6
    assert (labels != kmeans(points, 7, **OPTIONS | {"seed": 5})).any()


def test_points_a_centroid_are_sampled_where_asked():
    points = np.random.default_rng(0).random((601, 5)).astype(np.float32)
    whole = kmeans(points, 7, **OPTIONS)
    sampled = kmeans(points, 7, **OPTIONS | {"per_centroid": 20})
    assert len(sampled) == 601  # all are assigned
    assert (whole != sampled).any()
    assert (whole == kmeans(points, 7, **OPTIONS | {"per_centroid": 601})).all()


def test_spectra_are_reduced_as_named():
    values = np.arange(24, dtype=np.float32).reshape(2, 4, 3)  # rows, steps, k
    assert reduce_spectra(values, "sum").tolist() == [[3, 12, 21, 30], [39, 48, 57, 66]]
    assert reduce_spectra(values, "first").tolist() == [[0, 3, 6, 9], [12, 15, 18, 21]]
    assert reduce_spectra(values, "vector").tolist() == [list(range(12)), list(range(12, 24))]
    with pytest.raises(ValueError, match="reduction 'mean': expected one of sum, first, vector"):
        reduce_spectra(values, "mean")


def test_sums_are_added_in_float64_and_rounded_once():
    """As the release adds Python's floats and then makes a float32 tensor of them."""
    spectra = np.random.default_rng(0).random((200, 7, 5)) * np.array([140, 40, 9, 3, 1])
    values = spectra.astype(np.float32)
    sums = [[sum(spectrum) for spectrum in row] for row in values.tolist()]
    reduced = reduce_spectra(values, "sum")
    assert reduced.dtype == np.float32
    assert reduced.tolist() == np.array(sums, dtype=np.float32).tolist()
    assert (reduced != values.sum(axis=2)).mean() > 0.2  # sums in float32 are other numbers


def test_sums_in_float32_would_be_other_clusters(given):
    """2^24 + 1 + 1 is 2^24 in float32: row 0 would join rows 2 and 3."""
    large = 2.0**24
    values = np.array([[large, 1, 1], [large, 2, 0], [large, 0, 0], [large, 0, 0]])[:, None]
    features, store = given(values.astype(np.float32))
    labels = np.load(store.get(Clusters(features, k=2)) / "labels.npy")
    assert labels[0] == labels[1] != labels[2] == labels[3]
    summed = values.astype(np.float32).sum(axis=2)
    labels = kmeans(summed, 2, **OPTIONS)
    assert labels[0] == labels[2] == labels[3] != labels[1]


def test_rows_without_the_feature_are_labelled_k(given):
    values = np.zeros((11, 3, 2), dtype=np.float32)
    values[:4] += 5
    values[[2, 7, 10]] = np.nan
    features, store = given(values)
    folder = store.get(Clusters(features, k=2))
    labels = np.load(folder / "labels.npy")
    assert labels.dtype == np.int64
    assert np.flatnonzero(labels == 2).tolist() == [2, 7, 10]
    assert set(labels[[0, 1, 3]]) | set(labels[[4, 5, 6, 8, 9]]) == {0, 1}
    assert len(set(labels[[0, 1, 3]])) == len(set(labels[[4, 5, 6, 8, 9]])) == 1
    sizes = json.loads((folder / "sizes.json").read_text())
    assert sizes == np.bincount(labels, minlength=3).tolist()
    assert sum(sizes) == 11
    assert sizes[2] == 3


def test_a_row_with_some_values_missing_is_refused(given):
    values = np.ones((11, 3, 2), dtype=np.float32)
    values[4, 1] = np.nan
    features, store = given(values)
    values[2] = np.nan  # a row without the feature is no mistake, and does not change the number
    features, store = given(values)
    with pytest.raises(ValueError, match=r"given: row 4 is not finite: \[ *2\. +nan +2\.\]"):
        store.get(Clusters(features, k=2))


def test_the_reduction_decides_what_is_clustered(given):
    """Two groups that only differ in the second value: `first` cannot see them."""
    rng = np.random.default_rng(3)
    values = rng.normal(scale=0.01, size=(40, 1, 2)).astype(np.float32)
    values[::2, :, 1] += 4
    features, store = given(values)
    for reduction, found in (("sum", True), ("vector", True), ("first", False)):
        labels = np.load(store.get(Clusters(features, 2, reduction)) / "labels.npy")
        assert (len(set(labels[::2])) == len(set(labels[1::2])) == 1) == found


SNAPSHOTS = np.arange(14, dtype=np.float32).reshape(2, 7, 1)


@pytest.mark.parametrize(
    ("named", "kept"),
    [(":", range(7)), ("1:", range(1, 7)), (":1", [0]), ("-1:", [6]), ("::2", [0, 2, 4, 6]),
     ("::6", [0, 6]), (":-2", range(5)), ("2:5", [2, 3, 4]), ("::-1", range(6, -1, -1))],
)  # fmt: skip
def test_snapshots_are_named_by_a_slice(named, kept):
    expected = [[[row + 0.0] for row in kept], [[7 + row + 0.0] for row in kept]]
    assert kept_snapshots(SNAPSHOTS, named).tolist() == expected


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("first", "snapshots 'first': expected a slice"),
        ("1", "snapshots '1': expected a slice"),
        ("", "snapshots '': expected a slice"),
        ("1:2:3:4", "expected a slice"),
        ("7:", "snapshots '7:' selects none of the 7 snapshots"),
    ],
)
def test_what_names_no_snapshots_is_refused(named, message):
    with pytest.raises(ValueError, match=message):
        kept_snapshots(SNAPSHOTS, named)


def test_shuffled_snapshots_have_another_order_in_every_row():
    values = np.tile(np.arange(5.0), (397, 1))[:, :, None] + np.array([0, 100])
    shuffled = kept_snapshots(values, "1:", shuffled=3)
    orders = shuffled[:, :, 0]
    assert (np.sort(orders, axis=1) == np.arange(1, 5)).all()
    assert (shuffled[:, :, 1] == orders + 100).all()  # a snapshot stays whole
    assert len({tuple(order) for order in orders.tolist()}) == 24
    assert (shuffled == kept_snapshots(values, "1:", shuffled=3)).all()
    assert (shuffled != kept_snapshots(values, "1:", shuffled=4)).any()


def test_features_are_scaled_as_named():
    points = np.array([[1.0, 5, 0], [3, 5, 0], [5, 5, 6]])
    assert scaled(points, "none") is points
    root = np.sqrt(1.5)
    expected = [[-root, 0, -np.sqrt(0.5)], [0, 0, -np.sqrt(0.5)], [root, 0, np.sqrt(2)]]
    np.testing.assert_allclose(scaled(points, "zscore"), expected)
    np.testing.assert_allclose(scaled(points, "log"), np.log(points + 1))
    assert scaled(points.astype(np.float32), "zscore").dtype == np.float32
    with pytest.raises(ValueError, match="scaling 'sqrt': expected one of none, zscore, log"):
        scaled(points, "sqrt")
    with pytest.raises(ValueError, match=r"scaling log: the features go down to -2\.0"):
        scaled(points - 2, "log")


def test_scaling_and_snapshots_decide_what_is_clustered(given):
    """Two groups in the second snapshot, beside a first one that spreads ten times as far."""
    rng = np.random.default_rng(8)
    values = np.zeros((60, 2, 1), dtype=np.float32)
    values[:, 0, 0] = rng.uniform(0, 40, 60)
    values[::2, 1] = 4
    features, store = given(values)
    for how, found in (({}, False), ({"snapshots": "1:"}, True), ({"snapshots": ":1"}, False)):
        labels = np.load(store.get(Clusters(features, 2, **how)) / "labels.npy")
        assert (len(set(labels[::2])) == len(set(labels[1::2])) == 1) == found
    plain, equal = (
        np.load(store.get(Clusters(features, 2, scaling=how)) / "labels.npy")
        for how in ("none", "zscore")
    )
    assert (plain != equal).any()


def test_rows_without_the_feature_are_zeros_where_the_release_is_asked_for(given):
    values = np.full((11, 3, 2), 50, dtype=np.float32)
    values[:4] = 1  # near zero
    values[[2, 7, 10]] = np.nan
    features, store = given(values)
    labels = np.load(store.get(Clusters(features, 2, missing="zero")) / "labels.npy")
    assert len(set(labels[[0, 1, 2, 3, 7, 10]])) == len(set(labels[[4, 5, 6, 8, 9]])) == 1
    with pytest.raises(ValueError, match="missing 'drop': expected one of apart, zero"):
        store.get(Clusters(features, 2, missing="drop"))


def test_of_a_pool_text_only_rows_are_one_cluster_and_others_without_the_feature_in_none(given):
    values = np.zeros((11, 3, 2), dtype=np.float32)
    values[:4] += 5
    values[[2, 7]] = np.nan
    features, store = given(values)
    clusters = Clusters(features, k=2)
    has_image = np.ones(11, dtype=bool)
    has_image[[7, 9]] = False  # 9 has a value all the same
    of_pool = clusters.of_pool(store, has_image)
    assert np.flatnonzero(of_pool == 2).tolist() == [7, 9]
    assert np.flatnonzero(of_pool == -1).tolist() == [2]
    own = np.load(store.get(clusters) / "labels.npy")
    others = np.setdiff1d(np.arange(11), [2, 7, 9])
    assert (of_pool[others] == own[others]).all()


def test_features_of_one_value_a_row_are_taken_as_they_are(given):
    features, store = given(np.array([[0.0], [0.1], [9.0], [9.1], [9.2]], dtype=np.float32))
    labels = np.load(store.get(Clusters(features, k=2)) / "labels.npy")
    assert labels[0] == labels[1] != labels[2] == labels[3] == labels[4]
