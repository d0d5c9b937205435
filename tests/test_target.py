"""A target's fit: what trains, what is written, and that another subset is another model."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from toy import RECIPE, ROWS, TEXT_ONLY, Toy, losses, shared
from transformers import LlavaForConditionalGeneration

from xmas.models.answer_loss import answer_loss
from xmas.models.chat.batches import Loader
from xmas.models.vlm import load
from xmas.selection.methods.full import Full
from xmas.store import key
from xmas.target.target import Target
from xmas.training.fit.module import FitModule, features_of
from xmas.training.fit.trainables import Lora, with_lora

PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture
def adapted(toy: Toy):
    """The start point with LoRA, in bfloat16 as real ones are."""
    model = load(toy.store.get(toy.start)).model.to(torch.bfloat16)
    return with_lora(model, Lora(4, 8))


@pytest.fixture(scope="module")
def target(toy: Toy) -> Target:
    fitted = toy.target()
    toy.store.get(fitted)
    return fitted


@pytest.fixture(scope="module")
def weights(toy: Toy, target: Target) -> dict[str, torch.Tensor]:
    return load_file(toy.store.get(target) / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def batch(toy: Toy):
    """Rows of both kinds."""
    parts = load(toy.store.get(toy.start))
    loader = Loader(
        toy.proxy.tokens().open(toy.store),
        [np.array([0, 3, 2, 40])],
        image_token=parts.model.config.image_token_index,
        pad=parts.tokenizer.pad_token_id,
        pictures=toy.vision.pictures(toy.store),
    )
    return next(iter(loader))


def test_lora_sits_in_every_linear_layer_of_the_language_model_only(adapted):
    names = {name.split(".lora_A")[0] for name, _ in adapted.named_parameters() if "lora_A" in name}
    expected = {
        f"base_model.model.model.language_model.layers.{layer}.{block}.{part}"
        for layer in (0, 1)
        for part in PARTS
        for block in ["self_attn" if part in PARTS[:4] else "mlp"]
    }
    assert names == expected
    assert not any("lora" in name and "vision_tower" in name for name, _ in adapted.named_modules())


def test_lora_and_projector_train_in_float32_and_all_else_is_frozen(adapted):
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    projector = {name for name in trained if "multi_modal_projector" in name}
    assert {name.rsplit("default.")[1] for name in projector} == {
        *("linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias"),
    }
    lora = {name for name in trained if ".lora_A." in name or ".lora_B." in name}
    assert len(lora) == 2 * 2 * 7
    assert projector | lora == set(trained)
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    frozen = {
        name: weight for name, weight in adapted.named_parameters() if not weight.requires_grad
    }
    for part in ("vision_tower", "embed_tokens", "norm", "base_layer"):
        assert any(part in name for name in frozen), part
    assert not adapted.get_base_model().lm_head.weight.requires_grad
    assert {weight.dtype for weight in frozen.values()} == {torch.bfloat16}


def test_the_projector_has_its_own_rate(toy: Toy, adapted):
    recipe = dataclasses.replace(RECIPE, rate=2e-4, projector_rate=2e-5)
    optimizer = FitModule(adapted, recipe, steps=10, seed=0).configure_optimizers()["optimizer"]
    language, projector = optimizer.param_groups
    assert (language["initial_lr"], projector["initial_lr"]) == (2e-4, 2e-5)
    assert len(projector["params"]) == 4
    assert len(language["params"]) == 28
    ours = {id(weight) for weight in adapted.parameters() if weight.requires_grad}
    assert {id(weight) for group in optimizer.param_groups for weight in group["params"]} == ours


def test_the_warm_up_is_rounded_up_and_the_cosine_ends_at_zero(adapted):
    module = FitModule(adapted, RECIPE, steps=70, seed=0)  # 3 % are 2.1 steps
    configured = module.configure_optimizers()
    rates = []
    for _ in range(71):
        rates.append(configured["optimizer"].param_groups[0]["lr"])
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    expected = [RECIPE.rate * step / 3 for step in range(3)]
    expected += [RECIPE.rate * (1 + math.cos(math.pi * at / 67)) / 2 for at in range(68)]
    np.testing.assert_allclose(rates, expected, atol=1e-12)
    assert rates[70] == 0


def test_lora_s_dropout_is_on_in_a_fit_and_frozen_parts_draw_nothing(toy: Toy, batch):
    adapted = with_lora(load(toy.store.get(toy.start)).model, Lora(4, 8, dropout=0.5))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.5)  # they start at zero, where dropout would not show
    FitModule(adapted, RECIPE, steps=1, seed=0).on_fit_start()
    dropouts = {
        name for name, module in adapted.named_modules() if isinstance(module, torch.nn.Dropout)
    }
    assert len(dropouts) == 2 * 7
    assert all(adapted.get_submodule(name).training for name in dropouts)
    assert not any(
        module.training for module in adapted.get_base_model().model.vision_tower.modules()
    )
    with torch.no_grad():
        hidden = {
            answer_loss(
                adapted, batch.ids, batch.mask, batch.labels, features_of(adapted, batch)
            ).item()
            for _ in range(3)
        }
    assert len(hidden) == 3


def test_the_rate_of_dropout_changes_the_result(toy: Toy, weights):
    without_dropout = toy.store.get(toy.target(lora=Lora(4, 8, dropout=0.0)))
    adapter = load_file(without_dropout / "adapter" / "adapter_model.safetensors")
    assert not any(
        torch.equal(weights[name], adapter[name]) for name in weights if "lora_B" in name
    )


def test_only_the_projector_and_lora_are_saved(weights):
    projector = {name for name in weights if "multi_modal_projector" in name}
    lora = {name for name in weights if "lora_" in name}
    assert len(projector) == 4
    assert len(lora) == 28
    assert projector | lora == set(weights)
    assert not any("vision_tower" in name for name in weights)
    assert all(weights[name].any() for name in lora)  # B starts at zero


def test_the_projector_moved_away_from_its_start(toy: Toy, weights):
    start = load(toy.store.get(toy.start)).model.model.multi_modal_projector
    for name, parameter in start.named_parameters():
        (saved,) = [weight for full, weight in weights.items() if full.endswith(name)]
        assert not torch.equal(saved, parameter), name


@torch.no_grad()
def logits(model, batch) -> torch.Tensor:
    """Through transformers' own forward, without any of ours."""
    embedded = model.get_input_embeddings()(batch.ids.clamp_max(399))
    return model(inputs_embeds=embedded, attention_mask=batch.mask.long()).logits[batch.mask]


def test_an_adapter_names_its_start_point_and_no_folder(toy: Toy, target):
    folder = toy.store.get(target)
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"pretrained/{key(target.start)}"
    for path in folder.rglob("*"):
        assert path.is_dir() or str(toy.folder).encode() not in path.read_bytes(), path


def test_the_adapter_loads_in_plain_peft_and_merged_it_answers_alike(toy: Toy, target, batch):
    place = toy.store.get(toy.start)
    base = LlavaForConditionalGeneration.from_pretrained(place)
    adapter = PeftModel.from_pretrained(base, toy.store.get(target) / "adapter").eval()
    merged = target.load(toy.store).model
    assert not any("lora" in name for name, _ in merged.named_modules())
    torch.testing.assert_close(logits(merged, batch), logits(adapter, batch), rtol=1e-4, atol=1e-4)
    before = LlavaForConditionalGeneration.from_pretrained(place).eval()
    assert (logits(before, batch) - logits(merged, batch)).abs().max() > 0.1
    with torch.no_grad():
        mean_losses = [
            answer_loss(model, batch.ids, batch.mask, batch.labels, features_of(model, batch))
            for model in (adapter, merged)
        ]
    torch.testing.assert_close(*mean_losses, rtol=1e-5, atol=1e-5)


def test_the_loaded_model_has_the_trained_projector(toy: Toy, target, weights):
    projector = target.load(toy.store).model.model.multi_modal_projector
    for name, parameter in projector.named_parameters():
        (saved,) = [weight for full, weight in weights.items() if full.endswith(name)]
        assert torch.equal(saved, parameter), name


def test_frozen_weights_stay_as_they_were(toy: Toy, target):
    before = load(toy.store.get(toy.start)).model.state_dict()
    after = target.load(toy.store).model.state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    linear = {name for name in before if "language_model" in name and name.split(".")[-2] in PARTS}
    projector = {name for name in before if "multi_modal_projector" in name}
    assert moved == linear | projector


def test_a_target_sees_the_rows_of_its_subset_and_no_others(toy: Toy, target, monkeypatch):
    rows_seen: list[int] = []
    original = FitModule.training_step

    def watched(self, batch, batch_idx):
        rows_seen.extend(batch.rows.tolist())
        return original(self, batch, batch_idx)

    monkeypatch.setattr(FitModule, "training_step", watched)
    reseeded = toy.target(seed=6)
    folder = toy.store.get(reseeded)
    chosen = reseeded.subset.chosen(toy.store)
    assert sorted(rows_seen) == chosen.tolist()
    table = toy.proxy.tokens().open(toy.store)
    cost = json.loads((folder / "cost.json").read_text())
    assert cost == {"rows": 23, "tokens": int(table.lengths[chosen].sum())}
    assert [row["step"] for row in losses(folder)] == [1, 2, 3]  # 23 rows: 6 micro-batches in twos


def test_the_result_depends_on_the_subset(toy: Toy, target, weights):
    full = toy.target(toy.subset(Full()))
    assert key(full) != key(target)
    adapter = load_file(toy.store.get(full) / "adapter" / "adapter_model.safetensors")
    lora = [name for name in weights if "lora_B" in name]
    assert not any(torch.equal(weights[name], adapter[name]) for name in lora)


def test_the_same_target_in_another_store_is_the_same_bit_for_bit(toy: Toy, weights, tmp_path):
    again = shared(toy, tmp_path).get(toy.target())
    assert again.parent.parent == tmp_path
    adapter = load_file(again / "adapter" / "adapter_model.safetensors")
    assert adapter.keys() == weights.keys()
    assert all(torch.equal(adapter[name], weights[name]) for name in weights)


def test_the_seed_draws_adapters_order_and_dropout(toy: Toy, target, weights):
    reseeded = toy.store.get(toy.target(seed=5))
    adapter = load_file(reseeded / "adapter" / "adapter_model.safetensors")
    assert not any(torch.equal(weights[name], adapter[name]) for name in weights if "lora_" in name)


@pytest.mark.parametrize("policy", ["texts", "images"])
def test_subsets_of_one_kind_train(toy: Toy, policy):
    """Text-only micro-batches leave the projector where it was, and fail nothing."""
    if policy == "texts":
        subset = toy.subset(Full(), rows=len(TEXT_ONLY), text_only="keep_all")
        assert tuple(subset.chosen(toy.store)) == TEXT_ONLY
    else:
        subset = toy.subset(Full(), rows=ROWS - len(TEXT_ONLY), text_only="exclude")
    folder = toy.store.get(toy.target(subset))
    assert np.isfinite([row["loss"] for row in losses(folder)]).all()
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    start = load(toy.store.get(toy.start)).model.model.multi_modal_projector
    for name, parameter in start.named_parameters():
        (saved,) = [weight for full, weight in adapter.items() if full.endswith(name)]
        assert torch.equal(saved, parameter) == (policy == "texts"), name


def test_pictures_from_files_are_the_default_and_give_the_same(toy: Toy, target):
    read = toy.target(cache_vision=False)
    assert key(read) != key(target)
    cached_curve, read_curve = losses(toy.store.get(target)), losses(toy.store.get(read))
    assert [row["loss"] for row in cached_curve] == pytest.approx(
        [row["loss"] for row in read_curve], rel=1e-4
    )
