"""Statistics of spectra, against numbers that can be worked out by hand."""

import numpy as np
import pytest

from xmas.attention.statistics import flat, statistics
from xmas.store.variance_explained import explained


def test_explained_variance_by_hand():
    """In order of length 0, 1, 3, 6: squared steps 1, 4, 9 around a variance of 7."""
    value, length = np.array([6.0, 1.0, 0.0, 3.0]), np.array([90, 5, 4, 7])
    assert explained(value, length) == pytest.approx(1 - (14 / 3 / 2) / 7)
    assert explained(np.array([0.0, 9.0, 0.0, 9.0]), length[[2, 1, 3, 0]]) == 0  # never below
    tied = np.array([6.0, 5.0, 0.0, 3.0])  # 0, 3, then 5 and 6 in either order: 14 or 19 in all
    assert explained(tied, np.array([7, 7, 4, 5])) == pytest.approx(1 - ((14 + 19) / 2 / 6) / 7)
    assert explained(np.ones(4), length) is None
    assert explained(value, np.full(4, 7)) is None
    assert explained(value[:2], length[:2]) is None


@pytest.mark.parametrize("rows", [101, 997, 50_021])
def test_noise_is_not_explained_however_few_its_rows_are(rows):
    rng = np.random.default_rng(rows)
    found = [explained(rng.normal(size=rows), rng.integers(1, 400, rows)) for _ in range(31)]
    assert 0 < np.mean(found) < 1 / np.sqrt(rows)
    assert max(found) < 4 / np.sqrt(rows)


@pytest.mark.parametrize("rows", [503, 50_021])
def test_any_function_of_length_is_explained(rows):
    """Also one that goes up and down, of which a smooth curve would see nothing."""
    rng = np.random.default_rng(1)
    length = rng.integers(8, 300, rows)
    uniform = 24 * np.sqrt(576 * length) / (607 + length)  # no mask, 576 image tokens
    assert explained(uniform, length) > 0.9995
    assert explained(np.sin(length / 20), length) > 0.99
    halves = uniform + uniform.std() * rng.normal(size=rows)
    assert explained(halves, length) == pytest.approx(0.5, abs=3 / np.sqrt(rows))


def test_the_order_of_the_pool_explains_nothing():
    """Neighbours in the pool are alike and have the same length: that is not the length's doing."""
    value = np.repeat(np.random.default_rng(2).normal(size=1009), 3)
    length = 50 + np.arange(len(value)) // 3 % 2
    found = explained(value, length)
    assert found is not None
    assert found < 0.1
    mixed = np.random.default_rng(3).permutation(len(value))
    assert explained(value[mixed], length[mixed]) == pytest.approx(found, abs=1e-12)


def test_every_value_and_their_sum_are_explained():
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 60, 3001)
    values = np.stack([np.sqrt(lengths), rng.random(3001)], axis=1).astype(np.float32)
    values[17] = np.nan
    found = statistics(values, lengths)
    assert found["rows"] == 3000
    assert found["r2_length"]["sigma1"] > 0.999
    assert found["r2_length"]["sigma2"] < 0.06
    assert 0.9 < found["r2_length"]["sum"] < 1
    same = statistics(np.ones((16, 1), dtype=np.float32), np.arange(16))
    assert same["r2_length"]["sigma1"] is None
    assert np.isnan(flat(same)["sigma1/r2_length"])


def test_quantiles_are_those_of_numpy():
    rng = np.random.default_rng(2)
    values = rng.random((101, 2)).astype(np.float32)
    found = statistics(values, rng.integers(1, 9, 101))
    assert found["quantiles"]["sigma2"]["0.25"] == pytest.approx(np.quantile(values[:, 1], 0.25))
    assert found["quantiles"]["sum"]["1.0"] == pytest.approx(values.sum(axis=1).max())
    line = flat(found)
    assert line["sigma2/0.25"] == found["quantiles"]["sigma2"]["0.25"]
    assert line["sum/r2_length"] == found["r2_length"]["sum"]
    assert line["rows"] == 101


def test_a_pool_without_values_has_no_statistics():
    assert statistics(np.full((3, 2), np.nan, dtype=np.float32), np.ones(3, dtype=int)) == {
        "rows": 0
    }
    assert flat({"rows": 0}) == {"rows": 0.0}
