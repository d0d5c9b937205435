"""Fused blocks of a fit give the same loss and gradients: compiled, or with Liger's kernels.

Compiled ones are one graph for all blocks, without a break. Liger's package needs a GPU and is not
installed here: functions of the same names and arguments, in plain torch, stand for its kernels.
"""

import dataclasses
import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.models.llama import modeling_llama

from xmas.models.answer_loss import answer_loss
from xmas.models.vlm import language_model
from xmas.training.fit import liger
from xmas.training.fit.recipe import Hardware
from xmas.training.fit.speed import configured
from xmas.training.fit.trainables import Lora, with_lora

pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute:UserWarning"
)  # torch's, while tracing

LENGTHS = ([5, 9, 7], [140, 3], [6, 7, 8, 9, 10])  # as one call, as a call each, as one call


def adapted(targets: tuple[str, ...] | None = None) -> nn.Module:
    """Three blocks with LoRA of all their linear layers or of some, fewer key than query heads."""
    torch.manual_seed(0)
    text = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=97, pad_token_id=0,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        image_size=14, patch_size=7,
    )  # fmt: skip
    config = LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=96, image_seq_length=4
    )
    lora = Lora(4, 8, dropout=0.0, targets=targets)
    model = with_lora(LlavaForConditionalGeneration(config), lora)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zero at first: then no A has a gradient
            nn.init.normal_(weight, std=0.1)
    return model.train()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return adapted()


@pytest.fixture
def graphs() -> Iterator[Any]:
    """Dynamo's counters, from zero."""
    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()


def losses_and_gradients(
    model: nn.Module, hardware: Hardware, precision: str = "32-true"
) -> tuple[list[float], list[torch.Tensor]]:
    """Of packed rows without images, a microbatch for each of `LENGTHS`."""
    losses = []
    model.zero_grad()
    with (
        configured(model, hardware, precision),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"),
    ):
        for lengths in LENGTHS:
            generator = torch.Generator().manual_seed(sum(lengths))
            ids = torch.randint(3, 90, (1, sum(lengths)), generator=generator)
            mask = torch.ones_like(ids, dtype=torch.bool)
            loss = answer_loss(model, ids, mask, ids, None, lengths=torch.tensor(lengths))
            loss.backward()
            losses.append(loss.item())
    return losses, [one.grad.clone() for one in model.parameters() if one.grad is not None]


@pytest.mark.parametrize(
    ("backend", "checkpointing", "precision", "targets"),
    [  # the first one's graph of the backward pass is traced for seconds: fewer adapters
        ("aot_eager", 1.0, "bf16-mixed", ("q_proj", "down_proj")),
        ("eager", 0.0, "32-true", None),
    ],
)
def test_packed_blocks_are_one_graph_without_a_break(
    graphs, backend, checkpointing, precision, targets
):
    model = adapted(targets)
    hardware = Hardware(packing=True, checkpointing=checkpointing)
    expected, eager = losses_and_gradients(model, hardware, precision)
    hardware = dataclasses.replace(hardware, compile=backend)
    compiled, gradients = losses_and_gradients(model, hardware, precision)
    assert graphs["stats"]["unique_graphs"] == 1
    assert not graphs["graph_break"]
    tolerance = 1e-5 if precision == "32-true" else 0.02
    assert compiled == pytest.approx(expected, rel=tolerance)
    adapters = 7 if targets is None else len(targets)
    assert len(gradients) == 3 * adapters * 2 + 4  # A and B of each, and the connector's
    for mine, theirs in zip(gradients, eager, strict=True):
        scale = float(theirs.abs().max()) + 1e-9
        torch.testing.assert_close(mine / scale, theirs / scale, rtol=0, atol=3 * tolerance)


@pytest.mark.parametrize("lengths", LENGTHS[:2])
def test_the_operator_is_what_torch_asks_of_one(lengths):
    """Its schema, shapes without numbers, gradients, and the same inside a graph."""
    generator = torch.Generator().manual_seed(3)
    heads = (4, 2, 2)  # of queries, keys and values
    sequences = [torch.randn(1, count, sum(lengths), 8, generator=generator) for count in heads]
    torch.library.opcheck(
        torch.ops.xmas.packed_attention,
        (*(one.requires_grad_() for one in sequences), torch.tensor(lengths), 0.3),
    )


def test_attention_with_dropout_is_not_compiled(model):
    text = language_model(model).config
    text.attention_dropout = 0.1
    try:
        with (
            pytest.raises(
                ValueError, match=r"attention_dropout 0\.1, .* set hardware.compile=null"
            ),
            configured(model, Hardware(packing=True, compile="eager")),
        ):
            pass
    finally:
        text.attention_dropout = 0.0


GPU = Hardware("gpu", liger=True)
ROTARY = modeling_llama.apply_rotary_pos_emb


@pytest.fixture
def calls(monkeypatch) -> Counter[str]:
    """Put the stand-in in place of the package; counts the calls of its functions."""
    counts: Counter[str] = Counter()

    def liger_rms_norm(hidden, weight, eps, offset=0.0, casting_mode="llama", in_place=True):
        counts["norm"] += 1
        return nn.functional.rms_norm(hidden, hidden.shape[-1:], weight, eps)

    def liger_swiglu(gate, up):
        counts["swiglu"] += 1
        return nn.functional.silu(gate) * up

    def liger_rope(q, k, cos, sin, position_ids=None, unsqueeze_dim=1, rotary_dim=None):
        counts["rope"] += 1
        return ROTARY(q, k, cos, sin)

    functional: Any = ModuleType("liger_kernel.transformers.functional")
    for function in (liger_rms_norm, liger_swiglu, liger_rope):
        setattr(functional, function.__name__, function)
    monkeypatch.setitem(sys.modules, functional.__name__, functional)
    spec, find = object(), importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: spec if name == "liger_kernel" else find(name)
    )
    return counts


@pytest.mark.parametrize("checkpointing", [0.0, 1.0])
def test_norms_rotation_and_gates_are_fused_and_the_loss_is_the_same(model, calls, checkpointing):
    plain = Hardware("gpu", packing=True, checkpointing=checkpointing)
    expected, gradients = losses_and_gradients(model, plain)
    assert not calls
    fused, fused_gradients = losses_and_gradients(
        model, Hardware("gpu", packing=True, checkpointing=checkpointing, liger=True)
    )
    passes = 3 * (1 if checkpointing == 0 else 2)  # three microbatches; blocks once or twice
    assert calls == {"norm": 2 * 3 * passes + 3, "swiglu": 3 * passes, "rope": 3 * passes}
    assert fused == pytest.approx(expected, rel=1e-5)
    for mine, theirs in zip(fused_gradients, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)
    assert modeling_llama.apply_rotary_pos_emb is ROTARY
    assert not any("forward" in vars(module) for module in language_model(model).modules())


@pytest.mark.parametrize(
    ("hardware", "message"),
    [
        (
            GPU,
            r"liger-kernel is not installed; pip install 'xmas\[liger\]', or set hardware\.liger",
        ),
        (Hardware("cpu", liger=True), r"its kernels are for GPUs; set hardware\.liger=false"),
        (Hardware("gpu", liger=True, compile="eager"), "fuse the same steps of a block; set one"),
    ],
    ids=["not installed", "cpu", "compiled"],
)
def test_what_liger_cannot_do_is_refused_before_a_fit(model, hardware, message, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message), configured(model, hardware):
        pass


def test_a_model_without_its_norms_is_refused(model, monkeypatch):
    language = language_model(model)
    monkeypatch.setattr(language.config, "model_type", "stablelm")
    with pytest.raises(ValueError, match=r"a stablelm is none of llama, .*compile=inductor"):
        liger.check(language, "gpu")
