"""Frozen weights in 4 bits: what they stand for, what trains, what an adapter is merged into."""

import dataclasses
import importlib.util

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_lora import interrupted
from toy import RECIPE, Toy, shared

from xmas.models.adapters import adapters_of
from xmas.models.answer_loss import answer_loss
from xmas.models.chat.batches import Loader
from xmas.models.shape import LLAVA_15_7B
from xmas.models.vlm import language_model, load
from xmas.store import key
from xmas.training.fit import nf4
from xmas.training.fit.memory import USABLE, FitMemory, states
from xmas.training.fit.module import FitModule, features_of
from xmas.training.fit.recipe import Hardware
from xmas.training.fit.recomputation import fit_memory
from xmas.training.fit.trainables import Lora, trainable

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed: pip install 'xmas[nf4]'",
)
# The 16 values of NF4, quantiles of a normal distribution (QLoRA, appendix E).
NF4 = [
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
]  # fmt: skip


def nearest_values(weight: torch.Tensor) -> torch.Tensor:
    """Every weight as the nearest of NF4's values times the largest of its block of 64."""
    blocks = weight.double().flatten().split(64)
    levels = torch.tensor(NF4, dtype=torch.float64)
    rounded = []
    for block in blocks:
        scale = block.abs().max()
        nearest = (block[:, None] / scale - levels).abs().argmin(dim=1)
        rounded.append(levels[nearest] * scale)
    return torch.cat(rounded).view_as(weight)


@pytest.fixture(scope="module")
def batch(toy: Toy):
    parts = load(toy.store.get(toy.start))
    loader = Loader(
        toy.proxy.tokens().open(toy.store),
        [np.array([0, 3, 2, 40])],
        image_token=parts.model.config.image_token_index,
        pad=parts.tokenizer.pad_token_id,
        pictures=toy.vision.pictures(toy.store),
    )
    return next(iter(loader))


PLAIN = Lora(4, 8, dropout=0.0)


def quantised(toy: Toy, lora: Lora = PLAIN, precision: str = "32-true"):
    model = load(toy.store.get(toy.start)).model
    torch.manual_seed(5)
    return trainable(model, lora, precision, nf4_on=torch.device("cpu"))


@needs_bitsandbytes
def test_weights_are_the_nearest_of_16_values_times_their_block_s_largest():
    """But for the scales, which are in 8 bits themselves: a few per mille."""
    torch.manual_seed(3)
    weight = torch.randn(59, 64)
    rounded, expected = nf4.dequantised(weight).double(), nearest_values(weight)
    scales = weight.double().abs().amax(dim=1, keepdim=True)
    assert ((rounded - expected).abs() / scales).max() < 0.02
    assert ((weight - rounded).abs() / scales).mean() > 0.02  # it is not the weight itself


@needs_bitsandbytes
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_forward_pass_is_that_of_the_rounded_weights(toy: Toy, batch, precision):
    model = quantised(toy, precision=precision)
    plain = load(toy.store.get(toy.start)).model
    dtype = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}[precision]
    torch.manual_seed(5)
    rounded = trainable(nf4.round_weights(plain, dtype), PLAIN, precision)
    layers = [layer for layer in language_model(model).modules() if hasattr(layer, "base_layer")]
    assert len(layers) == 14
    assert {layer.base_layer.weight.dtype for layer in layers} == {torch.uint8}
    assert {layer.base_layer.compute_dtype for layer in layers} == {dtype}
    losses = []
    for each in (model, rounded):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = answer_loss(each, batch.ids, batch.mask, batch.labels, features_of(each, batch))
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(*losses, rtol=2e-3 if precision == "bf16-mixed" else 1e-6, atol=0)
    gradients = [
        torch.cat([weight.grad.flatten() for weight in each.parameters() if weight.requires_grad])
        for each in (model, rounded)
    ]  # fmt: skip
    close = torch.nn.functional.cosine_similarity(*gradients, dim=0)
    assert close > (0.999 if precision == "bf16-mixed" else 1 - 1e-6)


@needs_bitsandbytes
@pytest.mark.parametrize("dora", [False, True])
def test_a_step_changes_adapters_and_connector_in_float32_alone(toy: Toy, batch, dora):
    model = quantised(toy, Lora(4, 8, dora=dora))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    module = FitModule(model, RECIPE, steps=2, seed=0)
    module.on_fit_start()
    optimizer = module.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    module.training_step(batch, 0).backward()
    optimizer.step()
    changed = {
        name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])
    }
    trains = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert changed == trains
    assert len(trains) == 14 * (3 if dora else 2) + 4
    assert {before[name].dtype for name in trains} == {torch.float32}
    tower = model.get_base_model().model.vision_tower
    assert {weight.dtype for weight in tower.parameters()} == {torch.float32}


@needs_bitsandbytes
def test_a_target_of_4_bits_is_fitted_resumed_and_merged_into_what_its_weights_stand_for(
    toy: Toy, tmp_path, monkeypatch
):
    whole, again = tmp_path / "whole", tmp_path / "interrupted"
    for folder in (whole, again):
        folder.mkdir()
    store = shared(toy, whole)
    hardware = dataclasses.replace(toy.target().hardware, quantise="nf4")
    target = dataclasses.replace(toy.target(lora=PLAIN), hardware=hardware)
    adapter = load_file(store.get(target) / "adapter" / "adapter_model.safetensors")
    path = "model.language_model.layers.1.mlp.up_proj"
    a, b = (adapter[f"base_model.model.{path}.lora_{half}.weight"].double() for half in "AB")
    assert b.any()
    start = load(store.get(target.start)).model.get_submodule(path).weight.detach()
    expected = nf4.dequantised(start).double() + 2 * b @ a
    merged = target.load(store).model.get_submodule(path).weight.double()
    torch.testing.assert_close(merged, expected, rtol=1e-6, atol=1e-7)
    other = shared(toy, again)
    interrupted(target, other, monkeypatch)
    resumed = load_file(other.get(target) / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(weight, resumed[name]) for name, weight in adapter.items())
    first = target.weights_at(store, 0)[f"{path}.weight"]
    assert torch.equal(first, nf4.dequantised(start))


def test_4_bits_are_part_of_the_key_of_a_lora_target_alone(toy: Toy):
    hardware = dataclasses.replace(toy.target().hardware, quantise="nf4")
    target = toy.target()
    assert key(dataclasses.replace(target, hardware=hardware)) != key(target)
    proxy = dataclasses.replace(toy.proxy, hardware=hardware)
    assert key(proxy) == key(toy.proxy)


WRONG = {
    "in full": ({}, {"lora": None}, r"cannot be trained; set target/recipe=lora"),
    "precision": ({}, {"recipe": dataclasses.replace(RECIPE, precision="bf16-true")}, "bf16-true"),
    "shards": ({"strategy": "fsdp2"}, {}, r"strategy=fsdp2: 4-bit weights are not sharded"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_go_with_4_bits_is_refused(toy: Toy, kind):
    settings, fields, message = WRONG[kind]
    hardware = dataclasses.replace(toy.target().hardware, quantise="nf4", **settings)
    target = dataclasses.replace(toy.target(), hardware=hardware, **fields)
    with pytest.raises(ValueError, match=message):
        target.check(toy.store)


def test_a_missing_package_is_an_error_that_names_the_extra(toy: Toy, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name)
    )
    hardware = dataclasses.replace(toy.target().hardware, quantise="nf4")
    with pytest.raises(
        ValueError, match=r"bitsandbytes is not installed; pip install 'xmas\[nf4\]'"
    ):
        dataclasses.replace(toy.target(), hardware=hardware).check(toy.store)
    with pytest.raises(ValueError, match="quantise 'int4' is neither null nor nf4"):
        Hardware(quantise="int4")


@needs_bitsandbytes
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_an_estimate_counts_what_a_model_of_4_bits_has(toy: Toy, precision):
    model = quantised(toy, Lora(7, 14), precision)
    shape = toy.start.shape()
    kept = fit_memory(model, dataclasses.replace(RECIPE, precision=precision), Hardware())
    rank = dataclasses.replace(adapters_of(shape.decoder, 7), quantised=True)
    bits = 32 if precision == "32-true" else 16
    expected = states(shape, bits=bits, rank=rank, halved=True)
    assert kept.states == pytest.approx(expected, rel=0.01)
    assert expected < states(shape, bits=bits, rank=7, halved=True)


def test_a_7b_target_fits_a_card_of_24_gigabytes_with_4_bits_alone():
    """LLaVA-1.5-7B with LoRA of rank 128, all blocks recomputed, 8 rows of 1,024 tokens."""
    lora = adapters_of(LLAVA_15_7B.decoder, 128)
    sizes = {}
    for quantised in (False, True):
        rank = dataclasses.replace(lora, quantised=quantised)
        weights = states(LLAVA_15_7B, bits=16, rank=rank, halved=True)
        kept = FitMemory(LLAVA_15_7B.decoder, weights, 16, rank, logit_rows=1024)
        sizes[quantised] = kept.peak(8 * 1024, 2048, LLAVA_15_7B.decoder.layers) / 1e9
    assert sizes[True] < USABLE * 24 < sizes[False]
    by_hand = 6.476e9 * (0.5 + 1 / 64 + 1 / 4096)  # weights of the linear layers, with their scales
    assert LLAVA_15_7B.decoder.linear == pytest.approx(6.476e9, rel=1e-3)
    assert sizes[False] - sizes[True] == pytest.approx(
        (2 * 6.476e9 - by_hand) / 1e9,
        abs=0.1,  # the largest matrix in 16 bits, 0.09 GB
    )
