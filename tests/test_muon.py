"""Muon trains the matrices inside a model, AdamW the rest, and together they are one optimiser."""

import copy
import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from tiny import clip, language
from torch import nn
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import LambdaLR
from toy import CAPTION_RECIPE, HARDWARE, ROWS, Toy, losses

from xmas.models.assembled import joined
from xmas.models.vlm import freeze_tower, load
from xmas.store import describe
from xmas.training.fit.callbacks import Checkpoints
from xmas.training.fit.module import FitModule
from xmas.training.fit.muon import BatchedMuon, MuonAndAdamW, inner_matrices, muon_and_adamw
from xmas.training.fit.recipe import Recipe
from xmas.training.fit.trainables import Lora, with_lora
from xmas.training.fit.trainer import fit

RECIPE = dataclasses.replace(CAPTION_RECIPE, muon_rate=0.02, epochs=2, clip=1.0, weight_decay=0.01)
PROJECTOR = ["model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2"]
OF_A_BLOCK = [
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
]


class Interrupted(Callback):
    """A fit dies after a step, a moment after its checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            (checkpoints,) = (
                callback for callback in trainer.callbacks if isinstance(callback, Checkpoints)
            )
            checkpoints.save(trainer)
            raise InterruptedError


def llava(kind: str) -> nn.Module:
    """A tiny LLaVA with a frozen tower; of qwen2 the head is tied, of llama it is not."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return freeze_tower(joined(language(kind, 57), clip().vision_model, 56, -2, seed=1))


def names_of(model: nn.Module, matrices: list[torch.Tensor]) -> list[str]:
    names = {id(weight): name for name, weight in model.named_parameters()}
    return [names[id(matrix)].removesuffix(".weight") for matrix in matrices]


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_muon_trains_the_matrices_of_blocks_and_projector(kind):
    """Neither embeddings and the head, tied or not, nor gains, biases and what is frozen."""
    model: Any = llava(kind)
    blocks = [f"model.language_model.layers.{block}.{name}" for block in range(3)
              for name in OF_A_BLOCK]  # fmt: skip
    assert sorted(names_of(model, inner_matrices(model))) == sorted(PROJECTOR + blocks)
    head = model.lm_head.weight
    assert (head is model.get_input_embeddings().weight) == (kind == "qwen2")
    assert head.requires_grad


def test_muon_trains_adapters_where_only_they_are_trained():
    model = with_lora(llava("llama"), Lora(2, 4))
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    matrices = [name for name in trained if name.endswith(".weight")]
    assert any("lora_A" in name for name in matrices)
    assert sorted(names_of(model, inner_matrices(model))) == sorted(
        name.removesuffix(".weight") for name in matrices
    )


def test_muon_trains_the_matrices_of_both_towers():
    model: Any = clip()
    names = names_of(model, inner_matrices(model))
    blocks = ["text_model.encoder.layers.0"]
    blocks += [f"vision_model.encoder.layers.{block}" for block in range(3)]
    of_a_block = [*(f"self_attn.{name}_proj" for name in "qkv"), "self_attn.out_proj"]
    of_a_block += ["mlp.fc1", "mlp.fc2"]
    expected = [f"{block}.{name}" for block in blocks for name in of_a_block]
    assert sorted(names) == sorted([*expected, "visual_projection", "text_projection"])


# --- steps ---


def small() -> nn.Module:
    """Two matrices with biases, an embedding and a gain."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 9), nn.LayerNorm(9), nn.Linear(9, 3))


def optimiser_of(model: nn.Module) -> MuonAndAdamW:
    """As a fit makes it: two learning rates of AdamW, one of Muon."""
    weights = list(model.parameters())
    groups = [{"params": weights[:3], "lr": 3e-3}, {"params": weights[3:], "lr": 1e-3}]
    return muon_and_adamw(
        inner_matrices(model), 0.02, groups, weight_decay=0.1, betas=(0.9, 0.98), fused=True
    )


def differentiate(model: nn.Module, step: int) -> None:
    """Gradients that depend on weights and step."""
    ids = torch.arange(5) + step % 3
    (model(ids) * torch.linspace(-1, 1, 15).reshape(5, 3)).square().sum().backward()


def run(model: nn.Module, optimiser: Any, steps: range, schedule: Any = None) -> None:
    for step in steps:
        optimiser.zero_grad()
        differentiate(model, step)
        optimiser.step()
        if schedule is not None:
            schedule.step()


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def test_a_step_is_one_of_torch_s_muon_and_one_of_its_adamw():
    model, apart = small(), small()
    run(model, optimiser_of(model), range(4))
    table, first, first_bias, gain, gain_bias, second, second_bias = apart.parameters()
    muon = Muon([first, second], lr=0.02, weight_decay=0.1, momentum=0.95)
    adamw = AdamW(
        [
            {"params": [table, first_bias], "lr": 3e-3},
            {"params": [gain, gain_bias, second_bias], "lr": 1e-3},
        ],
        weight_decay=0.1,
        betas=(0.9, 0.98),
        fused=True,
    )
    for step in range(4):
        apart.zero_grad()
        differentiate(apart, step)
        muon.step()
        adamw.step()
    assert equal(model, apart)
    moved = zip(model.parameters(), small().parameters(), strict=True)
    assert not any(torch.equal(*pair) for pair in moved)


def test_matrices_of_a_shape_and_its_transpose_step_as_torch_s_muon(monkeypatch):
    """Together, and in parts where there are too many elements for one product."""
    monkeypatch.setattr("xmas.training.fit.muon.TOGETHER", 150)
    rng = torch.Generator().manual_seed(3)
    shapes = [(5, 7), (7, 5), (5, 7), (7, 7), (5, 7), (7, 5)]  # four, then one, of 35 elements
    pairs = []
    for shape in shapes:
        weight = torch.randn(shape, generator=rng)
        pairs.append((nn.Parameter(weight.clone()), nn.Parameter(weight)))
    together, apart = (list(side) for side in zip(*pairs, strict=True))
    settings: Any = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9}
    optimisers = [BatchedMuon(together, **settings), Muon(apart, **settings)]
    for _ in range(3):
        for one, other in pairs:
            one.grad = torch.randn(one.shape, generator=rng)
            other.grad = one.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=0, atol=3 * 0.02 * 2**-6)  # bfloat16


def test_a_closure_gives_its_loss_and_gradients():
    model, other = small(), small()
    optimiser = optimiser_of(model)

    def closure() -> float:
        optimiser.zero_grad()
        differentiate(model, 0)
        return 0.25

    assert optimiser.step(closure) == 0.25
    run(other, optimiser_of(other), range(1))
    assert equal(model, other)


def halves(step: int) -> float:
    return 0.5**step


def test_a_schedule_changes_all_rates_before_and_after_loading():
    model = small()
    optimiser = optimiser_of(model)
    schedule = LambdaLR(optimiser, halves)
    run(model, optimiser, range(2), schedule)
    again = small()
    loaded = optimiser_of(again)
    further = LambdaLR(loaded, halves)
    loaded.load_state_dict(optimiser.state_dict())
    further.load_state_dict(schedule.state_dict())
    for each, its_schedule in ((optimiser, schedule), (loaded, further)):
        its_schedule.step()
        rates = [[group["lr"] for group in part.param_groups] for part in each.parts]
        assert rates == [[3e-3 / 8, 1e-3 / 8], [0.02 / 8]]
        assert [group["lr"] for group in each.param_groups] == [3e-3 / 8, 1e-3 / 8, 0.02 / 8]


@pytest.mark.parametrize("end", [1, 3, 5])
def test_what_is_saved_and_loaded_continues_bit_for_bit(tmp_path, end):
    whole, before, after = small(), small(), small()
    for model, parts in ((whole, [range(6)]), (before, [range(end)])):
        optimiser = optimiser_of(model)
        schedule = LambdaLR(optimiser, halves)
        for steps in parts:
            run(model, optimiser, steps, schedule)
    torch.save([before.state_dict(), optimiser.state_dict(), schedule.state_dict()], tmp_path / "a")
    weights, optimiser_state, schedule_state = torch.load(tmp_path / "a", weights_only=True)
    after.load_state_dict(weights)
    optimiser = optimiser_of(after)
    schedule = LambdaLR(optimiser, halves)
    optimiser.load_state_dict(optimiser_state)
    schedule.load_state_dict(schedule_state)
    run(after, optimiser, range(end, 6), schedule)
    assert equal(after, whole)
    state = optimiser.state
    assert {id(weight) for weight in state} == {id(weight) for weight in after.parameters()}


def test_a_parameter_of_both_is_refused():
    model = small()
    weights = list(model.parameters())
    with pytest.raises(ValueError, match="by Muon and by AdamW; leave it to one of them"):
        MuonAndAdamW(Muon([weights[1]], lr=0.02), AdamW(weights))


# --- fits ---


@pytest.fixture
def fitted(toy: Toy, tmp_path: Path) -> Callable[..., tuple[list[dict[str, float]], nn.Module]]:
    def make(name: str, *callbacks: Callback, recipe: Recipe = RECIPE, **hardware: Any):
        parts, out = load(toy.store.get(toy.untrained)), tmp_path / name
        out.mkdir(exist_ok=True)
        freeze_tower(parts.model)
        fit(
            parts.model, toy.proxy.tokens().open(toy.store), np.arange(ROWS),
            toy.vision.pictures(toy.store), recipe=recipe,
            hardware=dataclasses.replace(HARDWARE, **hardware), seed=0, out=out, label=name,
            pad=parts.tokenizer.pad_token_id, callbacks=callbacks,
        )  # fmt: skip
        return losses(out), parts.model

    return make


def test_an_interrupted_fit_with_muon_resumes_bit_for_bit(fitted, tmp_path):
    curve, whole = fitted("whole")
    assert len(curve) == 12
    with pytest.raises(InterruptedError):
        fitted("interrupted", Interrupted(5))
    assert (tmp_path / "interrupted" / "last.ckpt").exists()
    resumed, model = fitted("interrupted")
    assert resumed == curve
    assert equal(model, whole)


def test_a_fit_with_muon_follows_its_rate(fitted, toy):
    """Its matrices depend on it, and so differ from those of AdamW alone and of another rate."""
    rates = (None, 0.02, 0.01)
    models = [
        fitted(f"at {rate}", recipe=dataclasses.replace(RECIPE, muon_rate=rate, epochs=1))[1]
        for rate in rates
    ]
    before: Any = load(toy.store.get(toy.untrained)).model
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    matrices = [model.get_parameter(name).detach() for model in models]
    moved = [float((matrix - before.get_parameter(name).detach()).norm()) for matrix in matrices]
    assert moved[1] > 1.5 * moved[2]
    for one, other in itertools.combinations(matrices, 2):
        assert not torch.equal(one, other)


def test_a_fit_gives_muon_its_matrices_and_both_rates_to_adamw(toy):
    model = llava("llama")
    module = FitModule(
        model, dataclasses.replace(RECIPE, rate=1e-3, projector_rate=5e-4), steps=10, seed=0
    )
    optimiser = module.configure_optimizers()["optimizer"]
    adamw, muon = optimiser.parts
    assert [id(weight) for group in muon.param_groups for weight in group["params"]] == [
        id(weight) for weight in inner_matrices(model)
    ]
    assert [group["initial_lr"] for group in adamw.param_groups] == [1e-3, 5e-4]
    assert {name for name, weight in model.named_parameters()
            if any(weight is other for other in adamw.param_groups[1]["params"])} == {
        f"{layer}.bias" for layer in PROJECTOR
    }  # fmt: skip
    assert [group["initial_lr"] for group in muon.param_groups] == [0.02]
    assert all(group["weight_decay"] == 0.01 for group in optimiser.param_groups)
    trained = [id(weight) for weight in model.parameters() if weight.requires_grad]
    members = [id(weight) for group in optimiser.param_groups for weight in group["params"]]
    assert sorted(members) == sorted(trained)


@pytest.mark.parametrize("strategy", ["fsdp2"])
def test_strategies_that_shard_matrices_are_refused_with_muon(fitted, strategy):
    with pytest.raises(
        ValueError, match=rf"muon_rate=0\.02 with hardware\.strategy={strategy}: .*strategy=ddp, or"
    ):
        fitted("sharded", strategy=strategy)


@pytest.mark.parametrize("rate", [0, -0.02])
def test_rates_that_are_not_positive_are_refused(rate):
    with pytest.raises(ValueError, match=rf"muon_rate {rate}: a positive rate .*null for AdamW"):
        Recipe(muon_rate=rate)


def test_recipes_without_muon_keep_their_identity():
    assert "muon" not in str(describe(Recipe()))
    described = [describe(Recipe(muon_rate=rate)) for rate in (None, 0.01, 0.02)]
    assert all(one != other for one, other in itertools.combinations(described, 2))


def test_two_copies_of_a_model_have_an_optimiser_each():
    """`state` is that of the parts, not one that instances share."""
    model = small()
    other = copy.deepcopy(model)
    optimiser = optimiser_of(model)
    run(model, optimiser, range(1))
    assert len(optimiser.state) == 7
    assert not optimiser_of(other).state
