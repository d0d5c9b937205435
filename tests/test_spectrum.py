"""Leading singular values: two ways, both against numpy's float64, and what a certificate means."""

import functools

import numpy as np
import pytest
import torch

from xmas.attention import spectrum, subspace
from xmas.attention.spectrum import certified, exact, leading, lowrank


def of_spectrum(values, rows: int, columns: int, *, count: int = 2, seed: int = 0) -> torch.Tensor:
    """Matrices that have these singular values, rounded to float32."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        left = np.linalg.qr(rng.normal(size=(rows, len(values))))[0]
        right = np.linalg.qr(rng.normal(size=(columns, len(values))))[0]
        found.append((left * np.array(values)) @ right.T)
    return torch.from_numpy(np.stack(found).astype(np.float32))


def attention(rows: int, columns: int, *, layers: int, heat: float) -> torch.Tensor:
    """Sums of softmax rows: `heat` 1e-2 is near initialisation, 3 is peaked."""
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randn(layers, 2, rows, columns, generator=generator) * heat
    return logits.softmax(dim=-1).sum(dim=0)


@functools.lru_cache(maxsize=40)
def spectra(matrices: torch.Tensor) -> np.ndarray:
    return np.linalg.svd(matrices.double().numpy(), compute_uv=False)


def wanted_of(matrices: torch.Tensor, k: int) -> np.ndarray:
    found = spectra(matrices)[:, :k]
    return np.pad(found, ((0, 0), (0, k - found.shape[1])))


def close(found: torch.Tensor, matrices: torch.Tensor) -> None:
    wanted = wanted_of(matrices, found.shape[1])
    assert found.dtype == torch.float32
    floor = 1e-12 * wanted.max()  # of values that are zero but for float32's rounding of a matrix
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=floor)


FLAT = np.r_[3.0, np.linspace(1.0, 0.6, 96)]
KINDS = {
    **{f"attention, {rows} rows": functools.partial(attention, rows, 101, layers=3, heat=1.0)
       for rows in (1, 4, 5, 64, 97)},
    "attention, 600 rows": lambda: attention(600, 577, layers=2, heat=1.0),
    "attention, prime sides": lambda: attention(83, 89, layers=4, heat=3.0),
    "near initialisation": lambda: attention(79, 101, layers=24, heat=1e-2),
    "one value far ahead": lambda: of_spectrum(np.r_[1.0, np.geomspace(5e-3, 1e-3, 40)], 53, 61),
    "a flat tail": lambda: of_spectrum(FLAT, 101, 131),
    "five equal values": lambda: of_spectrum([2, 1, 1, 1, 1, 1, 1, 0.9, 0.5] + [0.2] * 40, 67, 59),
    "equal pairs at the end": lambda: of_spectrum([4, 3, 2, 1.5, 1, 1 - 1e-7] + [0.5] * 30, 47, 97),
    "rank three": lambda: of_spectrum([5, 2, 1], 61, 71),
    "rank one": lambda: torch.ones(2, 59, 83) / 83,
    "steep beyond float32": lambda: of_spectrum(np.geomspace(1, 1e-9, 40), 61, 67),
    "tall": lambda: attention(101, 53, layers=2, heat=1.0),
    "zeros": lambda: torch.zeros(2, 41, 43),
}  # fmt: skip


@functools.cache
def matrices_of(kind: str) -> torch.Tensor:
    """The same object each time, so that numpy decomposes it once."""
    return KINDS[kind]()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 5, 11])
def test_both_ways_give_float64_s_values(kind, k):
    matrices = matrices_of(kind)
    values = exact(matrices, k)
    close(values, matrices)
    assert torch.equal(leading(matrices, k), values)  # on a CPU
    if min(matrices.shape[1:]) >= k:
        close(certified(matrices, k), matrices)


@pytest.mark.parametrize(
    "kind", ["attention, 64 rows", "attention, 600 rows", "near initialisation", "a flat tail",
             "one value far ahead", "five equal values", "equal pairs at the end", "tall"]
)  # fmt: skip
def test_attention_is_certified_without_the_dense_solver(kind, monkeypatch):
    matrices = matrices_of(kind)
    monkeypatch.setattr(spectrum, "exact", lambda *_: pytest.fail("not certified"))
    close(certified(matrices, 5), matrices)


@pytest.mark.parametrize("kind", ["rank three", "rank one", "zeros", "steep beyond float32"])
def test_what_float64_does_not_resolve_is_not_certified(kind):
    matrices = matrices_of(kind).double()
    _, sure = subspace.leading_eigenvalues(matrices @ matrices.mT, 24)
    assert not sure.any()


def test_a_block_that_missed_a_value_is_not_certified():
    """The start is orthogonal to the second vector: iteration never finds it, residuals are nil."""
    gram = torch.diag(torch.cat([torch.tensor([9.0, 8, 7, 6, 5, 4]), torch.full((60,), 0.1)]))
    start = subspace.initial_block(66, subspace.BLOCK).clone()
    start[1] = 0
    values, sure = subspace.leading_eigenvalues(gram[None].double(), 5, start=start)
    torch.testing.assert_close(values[0], torch.tensor([9.0, 7, 6, 5, 4]).double())
    assert not sure.any()
    matrix = gram.sqrt()[None]
    close(certified(matrix, 5, start=start), matrix)


def test_values_that_have_not_converged_are_not_certified():
    matrices = matrices_of("a flat tail")
    grams = matrices.double() @ matrices.double().mT
    _, sure = subspace.leading_eigenvalues(grams, 5, rounds=1)
    assert not sure.any()
    close(certified(matrices, 5, rounds=1), matrices)


def test_a_certificate_bounds_the_error_it_states():
    """On many random spectra, whatever the number of rounds: sure means within the bound."""
    rng = np.random.default_rng(1)
    seen = 0
    for trial in range(40):
        values = np.sort(rng.gamma(0.7, size=60))[::-1] ** rng.integers(1, 4)
        matrices = of_spectrum(values, 61, 67, seed=trial).double()
        found, sure = subspace.leading_eigenvalues(matrices @ matrices.mT, 5)
        wanted = wanted_of(matrices, 5) ** 2
        slack = 2.1 * subspace.TOLERANCE * found[:, -1:].numpy()
        within = (found.numpy() <= wanted * (1 + 1e-9)) & (wanted <= found.numpy() + slack)
        assert within[sure.numpy()].all()
        seen += int(sure.sum())
    assert seen > 60


@pytest.mark.parametrize("way", [exact, certified])
def test_neither_padding_nor_batch_mates_change_a_value(way):
    matrices = [attention(rows, 89, layers=3, heat=1.0)[0] for rows in (29, 31, 47, 59)]
    padded = torch.zeros(4, 73, 101)
    for line, one in enumerate(matrices):
        padded[line, : len(one), :89] = one
    together = way(padded, 5)
    for line, one in enumerate(matrices):
        torch.testing.assert_close(together[line], way(one[None], 5)[0], rtol=1e-6, atol=0)
        torch.testing.assert_close(together[line], way(padded[line, None], 5)[0], rtol=1e-6, atol=0)


def test_lines_of_zeros_give_values_of_zero_not_of_rounding():
    matrices = torch.zeros(2, 61, 67)
    matrices[0, :3] = attention(3, 67, layers=2, heat=1.0)[0]
    matrices[1, :, :2] = attention(61, 2, layers=2, heat=1.0)[0]
    for way in (exact, certified):
        found = way(matrices, 5)
        assert (found > 0).sum(dim=1).tolist() == [3, 2]
        close(found, matrices)


def test_more_values_than_a_side_has_are_zero():
    matrices = attention(3, 41, layers=1, heat=1.0)
    found = leading(matrices, 7)
    close(found, matrices)
    assert not found[:, 3:].any()
    assert leading(torch.zeros(2, 0, 5), 4).tolist() == [[0.0] * 4] * 2
    with pytest.raises(ValueError, match="k=7 is more than a block of 3 vectors for 3 rows"):
        certified(matrices, 7)


def test_low_rank_falls_short_where_the_spectrum_is_flat():
    """The release's solver, and why it is not the default: up to 29 % was measured."""
    matrices = matrices_of("a flat tail")
    found, wanted = lowrank(matrices, 5).numpy(), wanted_of(matrices, 5)
    assert (found <= wanted * (1 + 1e-5)).all()
    assert (found[:, 4] < 0.97 * wanted[:, 4]).all()
    np.testing.assert_allclose(found[:, 0], wanted[:, 0], rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["attention, 600 rows", "near initialisation", "rank three"])
def test_on_a_gpu_values_are_those_of_float64(kind):
    matrices = matrices_of(kind)
    close(leading(matrices.cuda(), 5).cpu(), matrices)
