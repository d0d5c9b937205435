"""Fits on a device of their own: every precision and setting, resumed, and float32 buffers."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from toy import Toy
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from emulated.fits import LORA, fitted, recipe
from emulated.gpu import Gpu
from xmas.models.chat.batches import Batch
from xmas.models.vision_cache import FromFiles
from xmas.models.vlm import load

PRECISIONS = {
    "32-true": torch.float32,
    "bf16-mixed": torch.float32,
    "16-mixed": torch.float32,
    "bf16-true": torch.bfloat16,
}  # of what trains


@pytest.fixture(autouse=True)
def frequencies(monkeypatch) -> set[torch.dtype]:
    """The types of rotary frequencies in all forward passes of a test."""
    kinds: set[torch.dtype] = set()
    forward = LlamaRotaryEmbedding.forward

    def seen(self, *arguments, **options):
        kinds.add(self.inv_freq.dtype)
        return forward(self, *arguments, **options)

    monkeypatch.setattr(LlamaRotaryEmbedding, "forward", seen)
    return kinds


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_fits_as_on_a_cpu(toy: Toy, tmp_path, frequencies, precision, lora):
    """Losses are a CPU's, but for the kernel of attention; buffers are float32."""
    options = {"recipe": recipe(precision=precision, clip=1.0), "lora": lora, "packing": True}
    curve, model = fitted(toy, tmp_path, **options)
    assert frequencies == {torch.float32}
    kinds = {buffer.dtype for buffer in model.buffers() if buffer.is_floating_point()}
    assert kinds == {torch.float32}
    learnt = {weight.dtype for weight in model.parameters() if weight.requires_grad}
    assert learnt == {PRECISIONS[precision]}
    if precision == "16-mixed":  # Lightning has it on GPUs alone
        assert all(np.isfinite(row["loss"]) for row in curve)
        return
    expected, _ = fitted(toy, tmp_path, accelerator="cpu", **options)
    rtol = 1e-4 if precision == "32-true" else 0.02
    for mine, theirs in zip(curve, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=rtol)


@pytest.mark.parametrize(
    "hardware",
    [
        {},
        {"packing": True, "checkpointing": 1.0, "logit_rows": 5},
        {"checkpointing": 0.5, "attention": "eager"},
    ],
    ids=str,
)
def test_every_setting_gives_the_same_losses(toy: Toy, tmp_path, hardware):
    plain, _ = fitted(toy, tmp_path, accelerator="cpu")
    curve, _ = fitted(toy, tmp_path, workers=1, **hardware)
    for mine, theirs in zip(curve, plain, strict=True):
        assert mine == pytest.approx(theirs, rel=0.05)  # dropout's masks differ where shapes do


def test_pixels_pass_the_tower_on_the_device(toy: Toy, tmp_path):
    processor = load(toy.store.get(toy.start)).processor
    pixels = FromFiles(toy.pool.open(), processor)
    curve, _ = fitted(toy, tmp_path, pictures=pixels)
    cached, _ = fitted(toy, tmp_path)
    for mine, theirs in zip(curve, cached, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-2)  # the cache has 16 bits


def test_batches_come_from_page_locked_memory(toy: Toy, tmp_path, monkeypatch):
    """From other memory, a copy of pictures would wait for the device."""
    pinned: list[bool] = []
    to = Batch.to

    def seen(batch: Batch, device: torch.device) -> Batch:
        tensors = [batch.ids, batch.places.answers, *batch.pictures.values()]
        pinned.extend(tensor.is_pinned() for tensor in tensors if tensor.numel())
        return to(batch, device)

    monkeypatch.setattr(Batch, "to", seen)
    fitted(toy, tmp_path, packing=True)
    assert len(pinned) > 8
    assert all(pinned)
    pinned.clear()
    fitted(toy, tmp_path, packing=True, accelerator="cpu")
    assert not any(pinned)


class KilledError(Exception):
    """Not one that anything handles."""


class Dies(Callback):
    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == self.batch:
            raise KilledError


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_an_interrupted_fit_resumes_bit_for_bit(toy: Toy, gpu: Gpu, tmp_path, precision):
    options = {"recipe": recipe(precision=precision, epochs=2), "checkpoint_seconds": 0.0}
    whole, model = fitted(toy, tmp_path / "whole", **options)
    with pytest.raises(KilledError):
        fitted(toy, tmp_path / "parts", callbacks=[Dies(5)], **options)
    resumed, again = fitted(toy, tmp_path / "parts", **options)
    assert resumed == whole
    for mine, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_loss_that_is_not_finite_names_its_microbatch(toy: Toy, tmp_path):
    """Though it is looked at only when the step has ended."""
    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf) at microbatch \d+, rows \["):
        fitted(toy, tmp_path, recipe=recipe(rate=1e30, epochs=3), lora=None)


def test_nothing_of_a_fit_stays_on_the_device(toy: Toy, gpu: Gpu, tmp_path):
    before = gpu.held
    _, model = fitted(toy, tmp_path)
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}
    assert gpu.held <= before + 10**4
