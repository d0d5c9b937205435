"""COINCIDE: its allocation as one order, greedy MMD, and both against the release's rules."""

import dataclasses
import logging
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from toy import Toy

from xmas.features.activations import Activations
from xmas.features.clustering.spherical import Spherical
from xmas.selection.methods.coincide import Coincide
from xmas.selection.rules.allocation import allocate, budgets, shares, transferability
from xmas.selection.rules.mmd import gaussian_kernel, greedy
from xmas.store import Store, content

# Transferability.


def test_transferability_by_hand():
    # Cosines: 0 and 1: 0.6; 0 and 2: 0; 1 and 2: 0.8; 3 is 0 twice as long, a near-duplicate.
    centroids = np.array([[1, 0], [0.6, 0.8], [0, 5], [2, 0]], dtype=np.float32)
    found = transferability(centroids)
    assert found == pytest.approx([(0.6 + 0) / 2, (0.6 + 0.8 + 0.6) / 3, 0.8 / 3, 0.6 / 2])


def test_a_pair_above_the_limit_counts_for_neither():
    centroids = np.array([[1, 0], [0.8, 0.6], [0, 1]], dtype=np.float32)
    assert transferability(centroids, near_duplicate=0.7) == pytest.approx([0.0, 0.6, 0.3])


def test_a_cluster_without_another_has_no_transferability():
    found = transferability(np.array([[1, 0], [1, 0.01]], dtype=np.float32))
    assert np.isnan(found).all()
    assert transferability(np.zeros((1, 3), dtype=np.float32)).shape == (1,)


# Allocation.


def test_shares_by_hand():
    order, share = shares(np.array([0.1, 0.3, 0.2]), 0.1)
    assert order.tolist() == [1, 2, 0]
    e = np.exp(1)
    assert share == pytest.approx([e**2 / (e**2 + e + 1), e / (e + 1), 1])


def test_equal_clusters_are_visited_in_their_order_with_exact_shares():
    order, share = shares(np.array([0.7, 0.7, 0.7, 0.7]), 0.1)
    assert order.tolist() == [0, 1, 2, 3]
    assert share.tolist() == [1 / 4, 1 / 3, 1 / 2, 1]


def test_shares_stand_scores_of_any_size():
    order, share = shares(np.array([0.0, 900.0, -900.0]), 0.1)
    assert order.tolist() == [1, 0, 2]
    assert share.tolist() == [1, 1, 1]


def test_given_by_hand():
    # 10: half is 5, of which 3 are there; of 7 a third is 2.3; what is left is 5, of which 4.
    share, sizes = np.array([1 / 2, 1 / 3, 1.0]), np.array([3, 9, 4])
    assert allocate(10, share, sizes).tolist() == [3, 2, 4]  # one less than was asked for
    assert allocate(5, share, sizes).tolist() == [2, 1, 2]  # 2.5 is rounded to even
    assert allocate(3, share, sizes).tolist() == [2, 0, 1]  # 1.5 too


def cases(count: int):
    """Clusters of any sizes with any scores, half of them with ties."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        k = int(rng.integers(1, 9))
        sizes = rng.integers(1, 12, k)
        spread = rng.choice([0.1, 1.0, 5.0])
        tied = rng.integers(0, 3, k) * spread / 2
        yield (tied if rng.random() < 0.5 else rng.random(k) * spread), sizes


def test_every_budget_is_a_prefix_of_one_order():
    """What the release gives to every budget, fallen short or not, beyond the pool too."""
    exact = short = 0
    for scores, sizes in cases(130):
        order, share = shares(scores, 0.1)
        sizes = sizes[order]
        wanted = budgets(share, sizes)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        assert len(set(wanted.tolist())) == sizes.sum()
        for budget in [*range(int(sizes.sum()) + 20), *wanted.astype(int).tolist()]:
            by_rule = allocate(budget, share, sizes)
            by_order = np.bincount(owner[wanted <= budget], minlength=len(sizes))
            assert by_rule.tolist() == by_order.tolist()
            exact += by_rule.sum() == budget
            short += by_rule.sum() < min(budget, sizes.sum())
    assert exact > 1000
    assert short > 100  # and the order filled these up


def test_one_row_more_goes_to_one_cluster_or_to_none():
    for scores, sizes in cases(100):
        order, share = shares(scores, 0.1)
        before = np.zeros(len(sizes), dtype=int)
        for budget in range(1, int(sizes.sum()) + 1):
            now = allocate(budget, share, sizes[order])
            assert ((now - before) >= 0).all()
            assert (now - before).sum() <= 1
            before = now


def test_large_clusters_behind_many_others_are_given_at_last():
    """The last rows' budgets are far beyond the pool: these are computed, not walked through."""
    share = shares(np.zeros(997), 0.1)[1]
    sizes = np.full(997, 2)
    sizes[0] = 1009
    wanted = budgets(share, sizes)
    assert wanted.max() > 300 * sizes.sum()
    for budget in (1, 997, 2003, 10**5, int(wanted.max()) - 1, int(wanted.max())):
        taken = np.bincount(np.repeat(np.arange(997), sizes)[wanted <= budget], minlength=997)
        assert taken.tolist() == allocate(budget, share, sizes).tolist()


# The kernel.


def squares(points: np.ndarray) -> np.ndarray:
    wide = points.astype(np.float64)
    return ((wide[:, None] - wide[None]) ** 2).sum(axis=2)


def test_the_kernel_by_hand():
    points = np.array([[0, 0], [3, 4], [0, 1]], dtype=np.float16)
    e = np.exp
    wanted = [[1, e(-12.5), e(-0.5)], [e(-12.5), 1, e(-9)], [e(-0.5), e(-9), 1]]
    for products in ("float32", "float64"):
        assert gaussian_kernel(points, products=products) == pytest.approx(np.array(wanted))
    assert gaussian_kernel(points, width=2.0)[0, 1] == pytest.approx(e(-25 / 8))


@pytest.mark.parametrize("memory", [2**32, 0], ids=["in memory", "in a file"])
def test_the_kernel_is_that_of_all_pairs(memory):
    points = np.random.default_rng(0).normal(scale=0.3, size=(23, 37)).astype(np.float16)
    wanted = np.exp(-squares(points) / 2)
    for products, error in (("float32", 1e-6), ("float64", 1e-14)):
        kernel = gaussian_kernel(points, products=products, memory=memory, tile=7, columns=11)
        assert isinstance(kernel, np.memmap) == (memory == 0)
        assert np.abs(kernel - wanted).max() < error
        assert (kernel.diagonal() == 1).all()
        assert (kernel == kernel.T).all()


def test_runs_of_features_are_summed_in_double_precision():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(61, 9973)) + 3 * rng.normal(size=9973)
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float16)
    apart = gaussian_kernel(points) - gaussian_kernel(points, products="float64")
    assert 0 < np.abs(apart).max() < 1e-6


def test_another_precision_is_refused():
    points = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match="products 'float16': expected one of float32, float64"):
        gaussian_kernel(points, products="float16")


# Greedy MMD.


def discrepancy(kernel: np.ndarray, chosen: list[int]) -> float:
    """mean(K_XX) + mean(K_SS) - 2 mean(K_XS)."""
    inside = kernel[np.ix_(chosen, chosen)].mean()
    return kernel.mean() + inside - 2 * kernel[:, chosen].mean()


def steps(kernel: np.ndarray, order: list[int]):
    """What every row that is left would make of the discrepancy, step by step."""
    for taken in range(len(order)):
        left = [row for row in range(len(kernel)) if row not in order[:taken]]
        yield {row: discrepancy(kernel, [*order[:taken], row]) for row in left}


def brute_force(kernel: np.ndarray) -> list[int]:
    """At every step the best row; rows whose values differ by rounding are equal: the first."""
    order: list[int] = []
    while len(order) < len(kernel):
        *_, values = steps(kernel, [*order, -1])
        order.append(min(row for row in values if values[row] <= min(values.values()) + 1e-14))
    return order


@pytest.mark.parametrize("width", [1.0, 0.3, 3.0])
def test_greedy_mmd_is_brute_force(width):
    rng = np.random.default_rng(5)
    decided = 0
    for count in (1, 2, 3, 5, 7, 11, 17) * 3:
        points = rng.normal(size=(count, int(rng.integers(1, 6)))) * rng.choice([0.2, 1.0, 3.0])
        kernel = gaussian_kernel(points, width=width, products="float64")
        order = greedy(kernel).tolist()
        assert sorted(order) == list(range(count))
        for row, values in zip(order, steps(kernel, order), strict=True):
            assert values[row] <= min(values.values()) + 1e-14
            decided += sum(value > values[row] + 1e-9 for value in values.values())
    assert decided > 400  # candidates that the check above rules out


def test_of_equal_rows_the_first_is_taken():
    kernel = gaussian_kernel(np.ones((5, 3)), products="float64")
    assert greedy(kernel).tolist() == [0, 1, 2, 3, 4]
    # Two pairs of equal rows: one of each first.
    kernel = gaussian_kernel(np.array([[0.0], [0.0], [2.0], [2.0]]), products="float64")
    assert greedy(kernel).tolist() == [0, 2, 1, 3]


def test_the_row_in_the_middle_comes_first():
    points = np.array([[-1.0], [1.0], [0.1]])
    assert greedy(gaussian_kernel(points)).tolist()[0] == 2


# The selector.


@dataclasses.dataclass(frozen=True)
class Drawn(Activations):
    """Features out of a file."""

    kind: ClassVar[str] = "drawn_activations"

    file: str = content("")

    def compute(self, store: Store, out: Path) -> None:
        np.save(out / "values.npy", np.load(self.file))


@dataclasses.dataclass(frozen=True)
class Labelled(Spherical):
    """Clusters out of files."""

    kind: ClassVar[str] = "drawn_clusters"

    file: str = content("")
    centroids: str = content("")

    def compute(self, store: Store, out: Path) -> None:
        np.save(out / "labels.npy", np.load(self.file))
        np.save(out / "centroids.npy", np.load(self.centroids))


ROWS, LAYERS, HIDDEN, K = 89, 3, 4, 7


def draw(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of 89 rows in seven clusters, labels, and centroids that differ in language."""
    rng = np.random.default_rng(seed)
    centroids = rng.normal(size=(K, LAYERS * 2 * HIDDEN))
    labels = np.concatenate([np.arange(K), rng.integers(0, K, ROWS - K)])
    values = 0.2 * (centroids[labels] + rng.normal(size=(ROWS, LAYERS * 2 * HIDDEN)))
    return values.astype(np.float16), labels, centroids.astype(np.float32)


@pytest.fixture
def make(toy: Toy, tmp_path: Path):
    """A `Coincide` over given arrays."""

    def made(values, labels, centroids, mode: str = "fixed") -> Coincide:
        for name, held in (("values", values), ("labels", labels), ("centroids", centroids)):
            np.save(tmp_path / f"{name}.npy", held)
        features = Drawn(
            toy.proxy, layers=tuple(range(LAYERS)), mode=mode, file=str(tmp_path / "values.npy")
        )
        files = {name: str(tmp_path / f"{name}.npy") for name in ("labels", "centroids")}
        clusters = Labelled(
            features, k=len(centroids), file=files["labels"], centroids=files["centroids"]
        )
        return Coincide(features, clusters, mode=mode)

    return made


def rank(toy: Toy, selector: Coincide, tmp_path: Path):
    store = Store(str(tmp_path / "store"))
    return selector.rank(toy.pool, np.random.default_rng(0), store)


def released_parts(values, labels, centroids):
    """T / D of every cluster, and its rows in the order of greedy MMD, by brute force."""
    blocks = centroids.astype(np.float64).reshape(len(centroids), LAYERS, 2 * HIDDEN)
    language = blocks[:, :, HIDDEN:].reshape(len(centroids), -1)
    language /= np.linalg.norm(language, axis=1, keepdims=True)
    transfer = [line[line <= 0.9].mean() for line in language @ language.T]
    rows = [np.flatnonzero(labels == cluster) for cluster in range(len(centroids))]
    kernels = [np.exp(-squares(values[each]) / 2) for each in rows]
    score = np.array([t / kernel.mean() for t, kernel in zip(transfer, kernels, strict=True)])
    return score, [
        each[brute_force(kernel)].tolist() for each, kernel in zip(rows, kernels, strict=True)
    ]


def as_released(score: np.ndarray, inside: list[list[int]], budget: int) -> set[int]:
    """The rows of the released rule, cluster by cluster, written down step by step."""
    left, waiting, chosen = budget, list(range(len(score))), set()
    while waiting:
        power = np.exp((score[waiting] - score[waiting].max()) / 0.1)
        first = int(np.argmax(power))
        rows = inside[waiting.pop(first)]
        count = min(round(left * float(power[first] / power.sum())), len(rows))
        left -= count
        chosen |= set(rows[:count])
    return chosen


@pytest.mark.parametrize("mode", ["fixed", "released"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_subset_is_the_released_one(toy, make, tmp_path, mode, seed):
    drawn = draw(seed)
    ranked = rank(toy, make(*drawn, mode), tmp_path)
    assert sorted(ranked.order.tolist()) == list(range(ROWS))
    score, inside = released_parts(*drawn)
    shorter = 0
    for budget in range(1, ROWS + 1):
        wanted = as_released(score, inside, budget)
        assert set(ranked.order[: len(wanted)].tolist()) == wanted
        shorter += len(wanted) < budget
    assert shorter < ROWS // 2


def test_a_rows_score_is_that_of_its_cluster(toy, make, tmp_path):
    values, labels, centroids = draw()
    selector = make(values, labels, centroids)
    ranked = rank(toy, selector, tmp_path)
    assert ranked.clusters.tolist() == labels.tolist()
    language = centroids.reshape(K, LAYERS, 2, HIDDEN)[:, :, 1].reshape(K, -1)
    assert (selector.features.language(centroids) == language).all()
    transfer = transferability(language)
    for cluster in range(K):
        inside = labels == cluster
        density = np.exp(-squares(values[inside]) / 2).mean()
        assert ranked.scores[inside] == pytest.approx(transfer[cluster] / density, rel=1e-5)


def test_a_single_row_has_density_one(toy, make, tmp_path):
    values, labels, centroids = draw()
    labels[labels == 3] = 2
    labels[5] = 3
    ranked = rank(toy, make(values, labels, centroids), tmp_path)
    language = centroids.reshape(K, LAYERS, 2, HIDDEN)[:, :, 1].reshape(K, -1)
    assert ranked.scores[5] == pytest.approx(transferability(language)[3])


def test_empty_clusters_are_left_out_or_refused(toy, make, tmp_path):
    values, labels, centroids = draw()
    labels[labels == 4] = 1
    ranked = rank(toy, make(values, labels, centroids), tmp_path)
    without = rank(
        toy, make(values, labels - (labels > 4), np.delete(centroids, 4, axis=0)), tmp_path
    )
    assert ranked.order.tolist() == without.order.tolist()
    assert ranked.scores.tolist() == without.scores.tolist()
    told = r"1 of 7 clusters are empty.*features\.activations\.mode=fixed"
    with pytest.raises(ValueError, match=told):
        rank(toy, make(values, labels, centroids, "released"), tmp_path)


def test_collapsed_clusters_are_refused_or_told_of(toy, make, tmp_path, caplog):
    values, labels, centroids = draw()
    alike = np.ones_like(centroids) + 0.01 * centroids
    with caplog.at_level(logging.WARNING):
        ranked = rank(toy, make(values, labels, alike), tmp_path)
    assert "7 of 7 clusters have no other with a cosine of at most 0.9" in caplog.text
    for cluster in range(K):
        density = np.exp(-squares(values[labels == cluster]) / 2).mean()
        assert ranked.scores[labels == cluster] == pytest.approx(0.9 / density, rel=1e-5)
    with pytest.raises(ValueError, match="7 of 7 clusters have no other"):
        rank(toy, make(values, labels, alike, "released"), tmp_path)


def test_modes_that_do_not_agree_are_refused(make):
    selector = make(*draw())
    with pytest.raises(ValueError, match=r"set features\.activations\.mode=released"):
        dataclasses.replace(selector, mode="released")
    with pytest.raises(ValueError, match="coincide mode 'paper': expected one of fixed, released"):
        dataclasses.replace(selector, mode="paper")
