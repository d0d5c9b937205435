"""Leading singular values of a batch of matrices."""

import torch
from jaxtyping import Float
from torch import Tensor

from xmas.attention import subspace

# Sides up to which a dense eigensolver is taken. On one core it was 1.4 to 15 times as fast as the
# block method at every size: `experiments/extraction/solver.md`. For a GPU the bound is where
# cuSOLVER's batched eigensolver for small matrices ends; that is an expectation, not a measurement.
DENSE = {"cpu": 1 << 30, "cuda": 32}


def leading(matrices: Float[Tensor, "batch rows columns"], k: int) -> Float[Tensor, "batch {k}"]:
    """The `k` largest singular values of every matrix, in descending order, float32.

    Roots of eigenvalues of the smaller Gram matrix, in float64: forming it squares the spectrum,
    which costs float32 up to 4e-3 of a small value near initialisation. By size and device from a
    dense eigensolver (`exact`) or by blocks of vectors with a certificate (`certified`); both are
    within 1e-4 of each value. Where a matrix has fewer than `k` rows or columns, or fewer that are
    not zero, the missing values are zero.
    """
    side = min(matrices.shape[1:])
    if side <= DENSE.get(matrices.device.type, DENSE["cuda"]) or 2 * k > min(side, subspace.BLOCK):
        return exact(matrices, k)
    return certified(matrices, k)


def certified(
    matrices: Float[Tensor, "batch rows columns"], k: int, *, rounds: int = subspace.ROUNDS
) -> Float[Tensor, "batch {k}"]:
    """By subspace iteration; a matrix whose values it cannot certify is done by `exact`."""
    values, sure = subspace.leading_eigenvalues(_gram(matrices), k, rounds=rounds)
    found = values.clamp_min(0).sqrt().float()
    if not sure.all():
        found[~sure] = exact(matrices[~sure], k)
    return found


def exact(matrices: Float[Tensor, "batch rows columns"], k: int) -> Float[Tensor, "batch {k}"]:
    """All eigenvalues of the Gram matrix, in float64.

    Where that leaves a value too rough, below 3e-5 of the largest, a singular value decomposition
    of the matrix itself, in float64.
    """
    side = min(matrices.shape[1:])
    held = min(k, side)
    squares = torch.linalg.eigvalsh(_gram(matrices)).flip(1)[:, :held].clamp_min(0)
    filled = torch.minimum(matrices.any(dim=2).sum(dim=1), matrices.any(dim=1).sum(dim=1))
    counted = torch.arange(held, device=matrices.device) < filled[:, None]
    rough = (counted & (squares <= subspace.RESOLVED * squares[:, :1])).any(dim=1)
    values = squares.sqrt()
    if rough.any():
        values[rough] = torch.linalg.svdvals(matrices[rough].double())[:, :held]
    return torch.nn.functional.pad((values * counted).float(), (0, k - held))


def _gram(matrices: Float[Tensor, "batch rows columns"]) -> Float[Tensor, "batch side side"]:
    wide = matrices.double()
    return wide @ wide.mT if wide.shape[1] < wide.shape[2] else wide.mT @ wide


def lowrank(
    matrices: Float[Tensor, "batch rows columns"], k: int, *, seed: int = 0
) -> Float[Tensor, "batch {k}"]:
    """What `torch.svd_lowrank(q=k, niter=2)` takes for the `k` largest singular values, float32.

    As in the release, without oversampling: the small ones come out up to 29 % short. One random
    block serves the batch, drawn on the CPU from `seed`; torch's own generator is left as it was.
    Where a matrix has fewer than `k` rows or columns, the missing values are zero.
    """
    held = min(k, *matrices.shape[1:])
    found = matrices.new_zeros(len(matrices), k, dtype=torch.float32)
    if held:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            found[:, :held] = torch.svd_lowrank(matrices.cpu(), q=held, niter=2)[1]
    return found
