"""Matrix products of float32 on a CPU: by MKL, or by oneDNN, which is twice as fast on AMD's.

MKL leaves AVX-512 unused on a CPU that is not Intel's. torch asks oneDNN instead where bfloat16
would do, and on x86 oneDNN multiplies and adds in float32 all the same unless the CPU has AMX; one
that has it is Intel's, and stays with MKL. Other processors may really take bfloat16: not asked.
"""

import contextlib
import platform
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def by_onednn() -> Iterator[None]:
    """Large products inside are oneDNN's, where they are then still products of float32."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    with _asked("bf16" if x86 and not torch.cpu._is_amx_tile_supported() else "none"):
        yield


@contextlib.contextmanager
def by_mkl() -> Iterator[None]:
    """Inside `by_onednn`, for many small ones: each would cost oneDNN more than it saves."""
    with _asked("none"):
        yield


@contextlib.contextmanager
def _asked(precision: str) -> Iterator[None]:
    products = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]  # set late
    before = products.fp32_precision
    products.fp32_precision = precision
    try:
        yield
    finally:
        products.fp32_precision = before
