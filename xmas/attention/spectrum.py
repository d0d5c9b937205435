"""The leading singular values of a batch of matrices, by several methods."""

import torch
from jaxtyping import Float
from torch import Tensor

from xmas.attention import subspace

# The largest side of a Gram matrix for the dense eigensolver. On one CPU core it was 1.4 to 15
# times as fast as the block method at every size: `experiments/extraction/solver.md`. For GPUs it
# is the limit of cuSOLVER's batched eigensolver for small matrices, which was not measured.
DENSE = {"cpu": 1 << 30, "cuda": 32}


def leading(matrices: Float[Tensor, "batch rows columns"], k: int) -> Float[Tensor, "batch {k}"]:
    """The `k` largest singular values of every matrix, in descending order, float32.

    They are square roots of eigenvalues of the smaller Gram matrix, in float64: in float32,
    squaring the spectrum would cost up to 4e-3 of a small value near initialisation. Size and
    device decide between a dense eigensolver (`exact`) and subspace iteration with a certificate
    (`certified`); both are within a relative error of 1e-4. Where a matrix has fewer than `k` rows
    or columns, or fewer that are not zero, the missing values are 0.
    """
    side = min(matrices.shape[1:])
    if side <= DENSE.get(matrices.device.type, DENSE["cuda"]) or 2 * k > min(side, subspace.BLOCK):
        return exact(matrices, k)
    return certified(matrices, k)


def certified(
    matrices: Float[Tensor, "batch rows columns"],
    k: int,
    *,
    rounds: int = subspace.ROUNDS,
    start: Float[Tensor, "side block"] | None = None,
) -> Float[Tensor, "batch {k}"]:
    """`leading` by subspace iteration; matrices that it cannot certify are solved by `exact`.

    `rounds` and `start` are those of `subspace.leading_eigenvalues`; they change the speed alone.
    """
    grams = _gram(matrices)
    squares, sure = subspace.leading_eigenvalues(grams, k, rounds=rounds, start=start)
    values = squares.clamp_min(0).sqrt().float()
    if not sure.all():
        values[~sure] = exact(matrices[~sure], k)
    return values


def exact(matrices: Float[Tensor, "batch rows columns"], k: int) -> Float[Tensor, "batch {k}"]:
    """`leading` from all eigenvalues of the Gram matrix, in float64.

    Where a value is below 3e-5 of the largest, which makes it too inaccurate, from a singular value
    decomposition of the matrix, in float64.
    """
    side = min(matrices.shape[1:])
    count = min(k, side)
    squares = torch.linalg.eigvalsh(_gram(matrices)).flip(1)[:, :count].clamp_min(0)
    rank_limit = torch.minimum(matrices.any(dim=2).sum(dim=1), matrices.any(dim=1).sum(dim=1))
    in_rank = torch.arange(count, device=matrices.device) < rank_limit[:, None]
    rough = (in_rank & (squares <= subspace.RESOLVED * squares[:, :1])).any(dim=1)
    values = squares.sqrt()
    if rough.any():
        values[rough] = torch.linalg.svdvals(matrices[rough].double())[:, :count]
    return torch.nn.functional.pad((values * in_rank).float(), (0, k - count))


def _gram(matrices: Float[Tensor, "batch rows columns"]) -> Float[Tensor, "batch side side"]:
    wide = matrices.double()
    return wide @ wide.mT if wide.shape[1] < wide.shape[2] else wide.mT @ wide


def lowrank(
    matrices: Float[Tensor, "batch rows columns"], k: int, *, seed: int = 0
) -> Float[Tensor, "batch {k}"]:
    """The `k` largest singular values as `torch.svd_lowrank(q=k, niter=2)` estimates them, float32.

    As the XMAS release, without oversampling: small values are underestimated by up to 29 %. One
    random block, drawn on the CPU from `seed`, serves the batch; torch's global generator keeps its
    state. Where a matrix has fewer than `k` rows or columns, the missing values are 0.
    """
    count = min(k, *matrices.shape[1:])
    values = matrices.new_zeros(len(matrices), k, dtype=torch.float32)
    if count:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            values[:, :count] = torch.svd_lowrank(matrices.cpu(), q=count, niter=2)[1]
    return values
