"""flash-attention gets the arguments its kernels take; the stand-in in `flash/` checks them."""

import pytest
from toy import Toy

from emulated.fits import ROWS, fitted, recipe

# The stand-in is on the path in the process of `pytest -m emulated` alone.
flash_attn = pytest.importorskip("flash_attn", reason="in a process of its own: pytest -m emulated")


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_a_fit_calls_it_with_half_precision_and_lengths(toy: Toy, tmp_path, precision, packing):
    """The losses are those of torch's attention."""
    options = {"recipe": recipe(precision=precision), "packing": packing}
    flash_attn.CALLS.clear()
    curve, _ = fitted(toy, tmp_path, attention="flash_attention_2", **options)
    microbatches = recipe().micro_steps(len(ROWS))
    layers = len(flash_attn.CALLS) // microbatches
    assert layers == 2
    kind = "varlen" if packing else "dense"
    assert [name for name, _, _ in flash_attn.CALLS] == [kind] * (microbatches * layers)
    texts = [rows for _, rows, _ in flash_attn.CALLS[::layers]]
    assert texts == [recipe().micro_batch] * microbatches
    plain, _ = fitted(toy, tmp_path, **options)
    for mine, theirs in zip(curve, plain, strict=True):
        assert mine == pytest.approx(theirs, rel=0.02)


def test_float32_is_refused_by_its_kernels(toy: Toy, tmp_path):
    with pytest.raises(RuntimeError, match="fp16 and bf16"):
        fitted(toy, tmp_path, attention="flash_attention_2", packing=True)
