"""Leading eigenvalues of a batch of positive semidefinite matrices, each with a certificate.

Subspace iteration with a Chebyshev filter: a block of vectors is multiplied by a polynomial that
stays in [-1, 1] on the unwanted part of the spectrum and grows fastest above it, then replaced by
its Ritz vectors. Batched matrix products do nearly all the work. Converged vectors are deflated,
and the filter amplifies a limited range only: near initialisation attention has one eigenvalue of
1e5 times the next, whose vector would dominate the block.

Sources: Zhou, Saad, Tiago and Chelikowsky (2006) for the filter; Fukaya, Kannan, Nakatsukasa,
Yamamoto and Yanagisawa (2020) for the shifted Cholesky QR; Parlett, The Symmetric Eigenvalue
Problem (1998), chapters 3, 10 and 11, for inertia, interlacing and residual bounds.
"""

import functools
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BLOCK = 24  # vectors
DEGREE = 8  # of the polynomial
ROUNDS = 8  # at most
RANGE = 20.0  # the largest eigenvalue that the filter amplifies, over the largest it does not
TOLERANCE = 1e-5  # of the k-th eigenvalue; bounds the relative error of every singular value
RESOLVED = 1e-9  # of the largest eigenvalue: smaller ones are too inaccurate in float64


def leading_eigenvalues(
    grams: Float[Tensor, "batch n n"],
    k: int,
    *,
    rounds: int = ROUNDS,
    start: Float[Tensor, "n block"] | None = None,
) -> tuple[Float[Tensor, "batch {k}"], Bool[Tensor, " batch"]]:
    """The `k` largest eigenvalues in descending order, float64, and which matrices are certified.

    Certified means, for every eigenvalue l_i and its estimate t_i: t_i <= l_i <= t_i + 2 e, with
    e = TOLERANCE * t_k. The lower bound is interlacing. The upper: in a basis that begins with the
    Ritz vectors Y the matrix is [[T, R'], [R, C]]; |R| <= e is computed, and C < (t_k + e) I is
    shown by a Cholesky factorisation of the difference, so that no larger eigenvalue is missed; by
    Weyl's inequality l_i <= max(t_i, t_k + e) + |R|. It is a proof in exact arithmetic; roundings
    add about n * 1e-16 * l_1, at most n * 1e-7 * t_k since t_k > RESOLVED * t_1 is required too.
    The values of a matrix that is not certified may be right.

    Args:
        grams: symmetric, positive semidefinite, float64.
        rounds: of filter and Rayleigh-Ritz, at most.
        start: the initial block; None: `initial_block`.

    Raises:
        ValueError: `k` is more than a block or than a matrix has rows.
    """
    size, count = grams.shape[1], min(BLOCK, grams.shape[1])
    if k > count:
        raise ValueError(f"k={k} is more than a block of {count} vectors for {size} rows")
    block = initial_block(size, count) if start is None else start
    vectors = _orthonormal(grams @ block.to(grams.device, non_blocking=True))
    pairs = _ritz(grams, _orthonormal(grams @ vectors), k)
    for _ in range(rounds):
        if pairs.done[:, :k].all():
            break
        pairs = _ritz(grams, _filtered(grams, pairs), k)
    sure = pairs.done[:, :k].all(dim=1) & _nothing_missed(grams, pairs, k)
    return pairs.values[:, :k], sure


class _Pairs(NamedTuple):
    """Ritz values in descending order, Ritz vectors, their residuals, and which have converged."""

    values: Float[Tensor, "batch b"]
    vectors: Float[Tensor, "batch n b"]
    residuals: Float[Tensor, "batch n b"]
    done: Bool[Tensor, "batch b"]


@functools.cache
def initial_block(size: int, count: int) -> Float[Tensor, "{size} {count}"]:
    """Random vectors, the same for every matrix of a size: results do not depend on the batch."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, count, dtype=torch.float64, generator=generator)


def _orthonormal(vectors: Float[Tensor, "batch n b"]) -> Float[Tensor, "batch n b"]:
    """Cholesky QR, three times; the first is shifted, which allows for dependent vectors."""
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    identity = torch.eye(vectors.shape[2], dtype=vectors.dtype, device=vectors.device)
    for shift in (1e-12, 0.0, 0.0):
        factor, _ = torch.linalg.cholesky_ex(vectors.mT @ vectors + shift * identity)
        vectors = torch.linalg.solve_triangular(factor.mT, vectors, upper=True, left=False)
    return vectors


def _ritz(grams: Float[Tensor, "batch n n"], vectors: Float[Tensor, "batch n b"], k: int) -> _Pairs:
    images = grams @ vectors
    # NaN never converges; the eigensolver would raise an error for the whole batch
    small = (vectors.mT @ images).nan_to_num()
    values, turn = torch.linalg.eigh((small + small.mT) / 2)
    values, turn = values.flip(1), turn.flip(2)
    vectors = vectors @ turn
    residuals = images @ turn - vectors * values[:, None]
    converged = residuals.norm(dim=1) <= TOLERANCE / k * values[:, k - 1, None]
    return _Pairs(values, vectors, residuals, converged)


def _filtered(grams: Float[Tensor, "batch n n"], pairs: _Pairs) -> Float[Tensor, "batch n b"]:
    """Multiply by T_DEGREE of the deflated matrix, with [0, cut] mapped to [-1, 1].

    The cut is the smallest value of the block, or what keeps the largest one that has not converged
    in range. Converged vectors stay as they are.
    """
    values, vectors, _, converged = pairs
    loudest = values.masked_fill(converged, 0).amax(dim=1)
    cut = torch.maximum(values[:, -1], loudest / RANGE)[:, None, None]
    rest = grams - (vectors * (values * converged)[:, None]) @ vectors.mT
    identity = torch.eye(grams.shape[1], dtype=grams.dtype, device=grams.device)
    scaled_grams = rest * (2 / cut) - identity
    before, now = vectors, scaled_grams @ vectors
    for _ in range(DEGREE - 1):
        before, now = now, torch.baddbmm(before, scaled_grams, now, beta=-1, alpha=2)
    return _orthonormal(torch.where(converged[:, None], vectors, now))


def _nothing_missed(
    grams: Float[Tensor, "batch n n"], pairs: _Pairs, k: int
) -> Bool[Tensor, " batch"]:
    """Whether all eigenvalues outside the span of `vectors` are below the k-th value + tolerance.

    (1 - YY') G (1 - YY') = G - Y T Y' - R Y' - Y R'. A multiple of the identity minus this matrix
    is positive definite exactly if its Cholesky factorisation succeeds.
    """
    values, vectors, residuals = (part[..., :k] for part in pairs[:3])
    identity = torch.eye(grams.shape[1], dtype=grams.dtype, device=grams.device)
    bound = values[:, -1, None, None] * (1 + TOLERANCE)
    half = vectors * (values[:, None] / 2) + residuals
    rest = grams - half @ vectors.mT - vectors @ half.mT
    is_definite = torch.linalg.cholesky_ex(identity - rest / bound)[1] == 0
    square = (vectors.mT @ vectors - identity[:k, :k]).flatten(1).norm(dim=1) < 1e-10
    return is_definite & square & (values[:, -1] > RESOLVED * values[:, 0])
