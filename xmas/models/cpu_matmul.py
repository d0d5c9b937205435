"""Matrix products of float32 on a CPU: by MKL, or by oneDNN, which is twice as fast on AMD's.

MKL does not use AVX-512 on a CPU that is not Intel's. torch calls oneDNN instead where bfloat16 is
allowed, and on x86 oneDNN still multiplies and adds in float32 unless the CPU has AMX. A CPU with
AMX is Intel's and stays with MKL; processors other than x86 may really compute in bfloat16, and
stay with theirs.
"""

import contextlib
import platform
from collections.abc import Iterator

import torch

NARROW = 64  # oneDNN compiles each new shape, 0.3 ms; MKL has a product of such layers in 0.03


@contextlib.contextmanager
def by_onednn(width: int | None = None) -> Iterator[None]:
    """Within the context oneDNN computes large products, where they stay products of float32.

    Args:
        width: of the model's states: where it is at most `NARROW`, products stay with MKL; None: it
            is more.
    """
    x86 = platform.machine() in ("x86_64", "AMD64")
    is_wide = width is None or width > NARROW
    is_faster = x86 and is_wide and not torch.cpu._is_amx_tile_supported()
    with _matmul_precision("bf16" if is_faster else "none"):
        yield


@contextlib.contextmanager
def by_mkl() -> Iterator[None]:
    """Within `by_onednn`, MKL for many small products, each of which is slower by oneDNN."""
    with _matmul_precision("none"):
        yield


@contextlib.contextmanager
def _matmul_precision(precision: str) -> Iterator[None]:
    products = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]  # set late
    before = products.fp32_precision
    products.fp32_precision = precision
    try:
        yield
    finally:
        products.fp32_precision = before
