"""PRISM and ScalSelect: against sums over all pairs and a full singular value decomposition."""

import dataclasses
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from test_selectors import pool_of
from toy import Toy

from xmas.features.shallow import Shallow
from xmas.selection.methods.prism import Prism
from xmas.selection.methods.scalselect import Scalselect
from xmas.selection.protocol import Ranked
from xmas.selection.rules import centred as module
from xmas.selection.rules.centred import Centred, leverage, mean_correlation
from xmas.store import Store, content


@dataclasses.dataclass(frozen=True)
class GivenShallow(Shallow):
    """Both features out of one file."""

    kind: ClassVar[str] = "given_shallow"

    file: str = content("")

    def compute(self, store: Store, out: Path) -> None:
        for name in ("values", "attended"):
            shutil.copy(self.file, out / f"{name}.npy")


@pytest.fixture
def features(monkeypatch) -> np.ndarray:
    """Rows of a falling spectrum around a large mean; some have none. Blocks of 29 rows."""
    monkeypatch.setattr(module, "BLOCK_BYTES", 29 * 13 * 4)
    rng = np.random.default_rng(0)
    values = rng.standard_normal((211, 13)) @ (rng.standard_normal((13, 13)) * 0.6 ** np.arange(13))
    values += 5 * rng.standard_normal(13)
    values[rng.choice(211, 17, replace=False)] = np.nan
    values[29:58] = np.nan  # a block without any
    return values.astype(np.float16)


def test_prism_s_score_is_the_mean_cosine_over_all_pairs(features):
    rows = np.flatnonzero(~np.isnan(features[:, 0]))
    points = features[rows].astype(float) - features[rows].astype(float).mean(axis=0)
    scores = mean_correlation(Centred.of(features))
    for place, row in enumerate(rows):
        cosines = [
            points[place] @ other / np.linalg.norm(points[place]) / np.linalg.norm(other)
            for other in np.delete(points, place, axis=0)
        ]
        assert scores[row] == pytest.approx(np.mean(cosines), abs=1e-6)
    assert np.flatnonzero(~np.isnan(scores)).tolist() == rows.tolist()


@pytest.mark.parametrize("energy", [0.5, 0.9, 1.0])
def test_leverage_is_that_of_a_full_singular_value_decomposition(features, energy):
    rows = np.flatnonzero(~np.isnan(features[:, 0]))
    points = features[rows].astype(float) - features[rows].astype(float).mean(axis=0)
    left, singular, _ = np.linalg.svd(points, full_matrices=False)
    parts = np.cumsum(singular**2) / (singular**2).sum()
    wanted = next((k for k in range(1, 13) if parts[k - 1] >= energy), 13)
    scores, k = leverage(Centred.of(features), energy)
    assert k == wanted
    assert scores[rows] == pytest.approx((left[:, :k] ** 2).sum(axis=1), rel=1e-4)
    assert scores[rows].sum() == pytest.approx(k, rel=1e-5)
    assert np.flatnonzero(~np.isnan(scores)).tolist() == rows.tolist()


def test_rows_in_few_directions_have_no_components_of_rounding():
    points = np.zeros((7, 5), dtype=np.float16)
    points[:, 1] = [1, 2, 3, 4, 5, 6, 7]  # centred -3 to 3, squares 9 4 1 0 1 4 9
    scores, k = leverage(Centred.of(points), 1.0)
    assert k == 1
    assert scores == pytest.approx(np.array([9, 4, 1, 0, 1, 4, 9]) / 28)
    alike, none = leverage(Centred.of(np.ones((3, 5), dtype=np.float16)), 0.9)
    assert (alike.tolist(), none) == ([0, 0, 0], 0)


def test_prism_by_hand():
    """Centred: (-2, 0), (0, -2), (2, 2); cosines -1/sqrt(2) twice and 0; a row at the mean: 0."""
    points = np.array([[1, 3], [3, 1], [5, 5], [np.nan, np.nan], [3, 3]], dtype=np.float16)
    half = -(0.5**0.5)
    wanted = [half / 3, half / 3, 2 * half / 3, np.nan, 0]
    scores = mean_correlation(Centred.of(points))
    np.testing.assert_allclose(scores, wanted, rtol=1e-6, atol=1e-7)
    assert np.isnan(mean_correlation(Centred.of(points[:1]))).all()  # no other row
    with pytest.raises(ValueError, match="none of 1 rows has a feature"):
        Centred.of(points[3:4])


def ranked(toy: Toy, folder: Path, kind: type, seed: int = 0) -> Ranked:
    """Rows 1 and 5 are text-only; of row 4 the image was cut off."""
    values = [[0, 4.0], [np.nan] * 2, [1, 0], [0, -5], [np.nan] * 2, [np.nan] * 2, [-1, 1]]
    np.save(folder / "shallow.npy", np.array(values, dtype=np.float16))
    features = GivenShallow(toy.proxy, file=str(folder / "shallow.npy"))
    pool = pool_of(folder, [True, False, True, True, True, False, True])
    return kind(features).rank(pool, np.random.default_rng(seed), toy.store)


def test_text_only_rows_are_first_for_prism_and_last_for_scalselect(toy, tmp_path):
    first = {ranked(toy, tmp_path, Prism, seed).order[0] for seed in range(5)}
    assert first == {1, 5}  # drawn
    ranking = ranked(toy, tmp_path, Prism)
    assert {*ranking.order[:2].tolist()} == {1, 5}
    assert ranking.order[-1] == 4
    scores = ranking.scores[ranking.order[2:-1]]
    assert (np.diff(scores) <= 0).all()
    assert np.isfinite(scores).all()
    other = ranked(toy, tmp_path, Scalselect)
    assert {*other.order[-3:].tolist()} == {1, 4, 5}
    assert (np.diff(other.scores[other.order[:4]]) <= 0).all()


def test_a_fraction_of_the_energy_is_wanted(toy):
    for energy in (0.0, 1.1):
        with pytest.raises(ValueError, match=r"selector\.energy=.* is not within \(0, 1\]"):
            Scalselect(Shallow(toy.proxy), energy)
