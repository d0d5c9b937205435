"""Who multiplies matrices of float32 on a CPU."""

import pytest
import torch

from xmas.models.cpu_matmul import by_mkl, by_onednn

products = torch.backends.mkldnn.matmul


@pytest.mark.parametrize(
    ("lines", "inner", "columns"), [(211, 127, 53), (7, 1087, 509), (1, 61, 1)]
)
def test_products_are_still_of_float32(lines, inner, columns):
    """bfloat16 would be off by 3e-3."""
    generator = torch.Generator().manual_seed(lines)
    lines_by_inner, inner_by_columns = (
        torch.randn(size, generator=generator, requires_grad=True)
        for size in ((lines, inner), (inner, columns))
    )
    exact = lines_by_inner.detach().double() @ inner_by_columns.detach().double()
    with by_onednn():
        product = lines_by_inner @ inner_by_columns
        product.sum().backward()
    assert ((product - exact).abs().max() / exact.abs().max()).item() < 2e-6
    slope = inner_by_columns.detach().double().sum(dim=1).expand(lines, -1)
    torch.testing.assert_close(lines_by_inner.grad, slope.float(), rtol=1e-5, atol=1e-4)


def test_the_former_precision_is_restored():
    assert products.fp32_precision == "none"
    with by_onednn():
        precision = products.fp32_precision
        with by_mkl():
            assert products.fp32_precision == "none"
        assert products.fp32_precision == precision
    with pytest.raises(ZeroDivisionError), by_onednn():
        1 / 0  # noqa: B018
    assert products.fp32_precision == "none"


@pytest.mark.parametrize(
    ("machine", "amx", "asked"),
    [("x86_64", True, "none"), ("x86_64", False, "bf16"), ("aarch64", False, "none")],
)
def test_a_cpu_that_would_multiply_in_bfloat16_keeps_its_own(monkeypatch, machine, amx, asked):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    with by_onednn():
        assert products.fp32_precision == asked


@pytest.mark.parametrize(("width", "asked"), [(64, "none"), (65, "bf16"), (None, "bf16")])
def test_narrow_products_stay_with_mkl(monkeypatch, width, asked):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with by_onednn(width):
        assert products.fp32_precision == asked
