"""Rotary frequencies stay float32 wherever parameters are cast: a rounded one turns positions."""

import dataclasses
import math

import pytest
import torch
from peft import PeftModel
from torch import nn
from toy import RECIPE, Toy
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from xmas.evaluation.generation.settings import Generation
from xmas.features.activations import Activations
from xmas.features.extractor import FeatureExtractor
from xmas.models.precision import cast_parameters
from xmas.models.vlm import load
from xmas.store import describe
from xmas.training.fit.module import FitModule
from xmas.training.fit.trainables import Lora, projector_alone, trainable

PRECISIONS = ("bf16-mixed", "16-mixed")


@pytest.fixture
def model(toy: Toy) -> nn.Module:
    return load(toy.store.get(toy.start)).model


def float_buffers(model: nn.Module) -> dict[str, torch.dtype]:
    kinds = {
        name: buffer.dtype for name, buffer in model.named_buffers() if buffer.is_floating_point()
    }
    assert any("inv_freq" in name for name in kinds)
    return kinds


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "cast",
    [
        lambda model, precision: trainable(model, Lora(rank=2), precision),
        lambda model, precision: trainable(model, None, precision),
        projector_alone,
    ],
    ids=["lora", "full", "projector"],
)
def test_a_fit_casts_parameters_only(model, cast, precision):
    cast_model = cast(model, precision)
    assert set(float_buffers(cast_model).values()) == {torch.float32}
    frozen = {weight.dtype for weight in cast_model.parameters() if not weight.requires_grad}
    assert frozen == {{"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}[precision]}


@pytest.mark.parametrize("weights", ["bfloat16", "float16"])
def test_features_cast_parameters_only(toy: Toy, weights):
    loaded = FeatureExtractor("activations", toy.proxy, 0, weights).parts(toy.store)
    assert set(float_buffers(loaded.model).values()) == {torch.float32}
    assert next(loaded.model.parameters()).dtype == getattr(torch, weights)


def test_what_an_engine_casts_is_restored_when_the_fit_starts(model, toy: Toy):
    """Lightning's true 16 bits and DeepSpeed cast the whole module before that."""
    module = FitModule(model, toy.proxy.recipe, steps=3, seed=0)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    module.bfloat16()
    assert torch.bfloat16 in float_buffers(model).values()
    module.on_fit_start()
    assert set(float_buffers(model).values()) == {torch.float32}
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_the_phase_error_that_this_avoids():
    """Radians at position 700 of a 128-wide head: 0.86 in bfloat16, by the rounded frequencies."""
    rotary = LlamaRotaryEmbedding(LlamaConfig(hidden_size=4096, num_attention_heads=32))
    exact = [10000 ** (-place / 64) for place in range(64)]
    rounded = rotary.inv_freq.to(torch.bfloat16).double()
    worst = max(abs(700 * (float(one) - other)) for one, other in zip(rounded, exact, strict=True))
    assert worst == pytest.approx(0.86, abs=0.01)
    wrapper = nn.ModuleDict({"rotary": rotary, "layer": nn.Linear(2, 2)})
    cast_parameters(wrapper, torch.bfloat16)
    kept = [700 * float(one) for one in rotary.inv_freq.double()]
    assert kept == pytest.approx([700 * one for one in exact], rel=1e-6)
    assert math.isclose(kept[0], 700)


def test_only_what_changed_has_another_identity(toy: Toy):
    """float32 results are found as before; those of 16 bits are made anew."""
    assert "buffers" not in describe(Generation(precision="float32"))
    assert describe(Generation())["buffers"] == "float32"
    features = Activations(toy.proxy, layers=(0,))
    assert "buffers" not in describe(features)
    assert "buffers" in describe(dataclasses.replace(features, weights="bfloat16"))
    recipe = dataclasses.replace(RECIPE, precision="bf16-mixed")
    assert "buffers" in describe(toy.target(recipe=recipe))
    recipe = dataclasses.replace(recipe, precision="32-true")
    assert "buffers" not in describe(toy.target(recipe=recipe))


def test_an_adapted_model_is_cast_through_its_wrapper(model):
    adapted = trainable(model, Lora(rank=2), "bf16-mixed")
    assert isinstance(adapted, PeftModel)
    cast_parameters(adapted, torch.float16)
    assert {weight.dtype for weight in adapted.parameters()} == {torch.float16}
    assert set(float_buffers(adapted).values()) == {torch.float32}
