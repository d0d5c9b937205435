"""Leading eigenvalues of a batch of positive semidefinite matrices, each with a certificate.

Subspace iteration with a Chebyshev filter: a block of vectors is multiplied by a polynomial that
stays in [-1, 1] on the unwanted part of the spectrum and grows fastest above it, then replaced by
its Ritz vectors. Batched products do nearly all the work. Vectors that have converged are taken out
of the matrix, and the filter rises over a limited range only: near initialisation attention has one
eigenvalue 1e5 times the next, which would fill every vector with the first.

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
DEGREE = 8
ROUNDS = 8  # at most
RANGE = 20.0  # the largest eigenvalue the filter raises, over the largest it keeps down
TOLERANCE = 1e-5  # of the last eigenvalue asked for; bounds every singular value's relative error
RESOLVED = 1e-9  # of the largest eigenvalue: what float64 leaves of a smaller one is too rough


def leading_eigenvalues(
    grams: Float[Tensor, "batch n n"], k: int, *, rounds: int = ROUNDS
) -> tuple[Float[Tensor, "batch {k}"], Bool[Tensor, " batch"]]:
    """The `k` largest eigenvalues in descending order, float64, and which matrices are certified.

    Certified says, of every eigenvalue l_i and the value t_i given: t_i <= l_i <= t_i + 2 e, with
    e = TOLERANCE * t_k. The lower bound is interlacing. The upper: in a basis that begins with the
    Ritz vectors Y the matrix is [[T, R'], [R, C]]; |R| <= e is computed, and C < (t_k + e) I is
    shown by a Cholesky factorisation of the difference, so that no larger eigenvalue is missed; by
    Weyl's inequality l_i <= max(t_i, t_k + e) + |R|. It is a proof in exact arithmetic; roundings
    add about n * 1e-16 * l_1, at most n * 1e-7 * t_k since t_k > RESOLVED * t_1 is asked for too.
    A matrix that is not certified may have right values all the same.

    Raises ValueError: `k` is more than a block or than a matrix has rows.
    """
    size, count = grams.shape[1], min(BLOCK, grams.shape[1])
    if k > count:
        raise ValueError(f"k={k} is more than a block of {count} vectors for {size} rows")
    vectors = _orthonormal(grams @ _start(size, count).to(grams.device))
    pairs = _ritz(grams, _orthonormal(grams @ vectors), k)
    for _ in range(rounds):
        if pairs.done[:, :k].all():
            break
        pairs = _ritz(grams, _filtered(grams, pairs), k)
    sure = pairs.done[:, :k].all(dim=1) & _nothing_missed(grams, pairs, k)
    return pairs.values[:, :k], sure


class _Pairs(NamedTuple):
    """Ritz values in descending order, Ritz vectors, what these leave, and which have converged."""

    values: Float[Tensor, "batch b"]
    vectors: Float[Tensor, "batch n b"]
    residuals: Float[Tensor, "batch n b"]
    done: Bool[Tensor, "batch b"]


@functools.cache
def _start(size: int, count: int) -> Float[Tensor, "{size} {count}"]:
    """The same for every matrix of a size, so that no value depends on its batch mates."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, count, dtype=torch.float64, generator=generator)


def _orthonormal(vectors: Float[Tensor, "batch n b"]) -> Float[Tensor, "batch n b"]:
    """Cholesky QR, three times; the first is shifted, so that dependent vectors do not break it."""
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    identity = torch.eye(vectors.shape[2], dtype=vectors.dtype, device=vectors.device)
    for shift in (1e-12, 0.0, 0.0):
        factor, _ = torch.linalg.cholesky_ex(vectors.mT @ vectors + shift * identity)
        vectors = torch.linalg.solve_triangular(factor.mT, vectors, upper=True, left=False)
    return vectors


def _ritz(grams: Float[Tensor, "batch n n"], vectors: Float[Tensor, "batch n b"], k: int) -> _Pairs:
    images = grams @ vectors
    # what is not a number is never done; the eigensolver would raise for the whole batch
    small = (vectors.mT @ images).nan_to_num()
    values, turn = torch.linalg.eigh((small + small.mT) / 2)
    values, turn = values.flip(1), turn.flip(2)
    vectors = vectors @ turn
    residuals = images @ turn - vectors * values[:, None]
    done = residuals.norm(dim=1) <= TOLERANCE / k * values[:, k - 1, None]
    return _Pairs(values, vectors, residuals, done)


def _filtered(grams: Float[Tensor, "batch n n"], pairs: _Pairs) -> Float[Tensor, "batch n b"]:
    """T_DEGREE of the matrix less what is done, with [0, cut] mapped to [-1, 1], times the vectors.

    The cut is the block's smallest value, or what keeps the largest that is not done in range. What
    is done stays as it is.
    """
    values, vectors, _, done = pairs
    loudest = values.masked_fill(done, 0).amax(dim=1)
    cut = torch.maximum(values[:, -1], loudest / RANGE)[:, None, None]
    rest = grams - (vectors * (values * done)[:, None]) @ vectors.mT
    identity = torch.eye(grams.shape[1], dtype=grams.dtype, device=grams.device)
    mapped = rest * (2 / cut) - identity
    before, now = vectors, mapped @ vectors
    for _ in range(DEGREE - 1):
        before, now = now, torch.baddbmm(before, mapped, now, beta=-1, alpha=2)
    return _orthonormal(torch.where(done[:, None], vectors, now))


def _nothing_missed(
    grams: Float[Tensor, "batch n n"], pairs: _Pairs, k: int
) -> Bool[Tensor, " batch"]:
    """Whether all eigenvalues off the span of `vectors` are below the last value and a tolerance.

    (1 - YY') G (1 - YY') = G - Y T Y' - R Y' - Y R', of which a multiple of the identity less this
    is positive definite exactly if the Cholesky factorisation goes through.
    """
    values, vectors, residuals = (one[..., :k] for one in pairs[:3])
    identity = torch.eye(grams.shape[1], dtype=grams.dtype, device=grams.device)
    bound = values[:, -1, None, None] * (1 + TOLERANCE)
    half = vectors * (values[:, None] / 2) + residuals
    rest = grams - half @ vectors.mT - vectors @ half.mT
    factored = torch.linalg.cholesky_ex(identity - rest / bound)[1] == 0
    square = (vectors.mT @ vectors - identity[:k, :k]).flatten(1).norm(dim=1) < 1e-10
    return factored & square & (values[:, -1] > RESOLVED * values[:, 0])
