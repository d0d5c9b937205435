"""LoRA as people use it: which layers, rsLoRA, DoRA, and what trains in addition."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from test_flops import LOAD, counted, loss, shape_of, small
from toy import RECIPE, Toy, shared
from transformers import LlavaForConditionalGeneration

from xmas.estimate import flops
from xmas.models.adapters import Adapters, adapted_matrices, numbers_of
from xmas.models.chat.batches import Loader
from xmas.models.shape import Decoder
from xmas.models.vlm import language_model, load
from xmas.store import describe
from xmas.training.fit import memory
from xmas.training.fit.module import FitModule
from xmas.training.fit.recipe import Hardware
from xmas.training.fit.recomputation import fit_memory
from xmas.training.fit.speed import configured
from xmas.training.fit.trainables import Lora, merge_adapter, trainable, with_lora

LANGUAGE = "model.language_model.layers"
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
PROJECTOR = {
    f"model.multi_modal_projector.linear_{number}.{kind}"
    for number in (1, 2)
    for kind in ("weight", "bias")
}


def linear(layers=(0, 1), names=ATTENTION + MLP) -> set[str]:
    """Paths of linear layers of the toy's language model."""
    return {
        f"{LANGUAGE}.{layer}.{'self_attn' if name in ATTENTION else 'mlp'}.{name}"
        for layer in layers
        for name in names
    }


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


def stepped(toy: Toy, lora: Lora, batch) -> tuple[torch.nn.Module, set[str]]:
    """A model after one optimiser step, and the names that changed, as those of the base model."""
    base = load(toy.store.get(toy.start)).model
    if "lm_head" in lora.also:
        base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach().clone())
        base.config.tie_word_embeddings = False
    model = trainable(base, lora, "32-true")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)  # at zero the other half would get no gradient
    before = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    module = FitModule(model, RECIPE, steps=2, seed=0)
    module.on_fit_start()
    optimizer = module.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    module.training_step(batch, 0).backward()
    optimizer.step()
    after = model.state_dict()
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    return model, {
        name.removeprefix("base_model.model.")
        .replace("modules_to_save.default.", "")
        .replace(".default", "")
        for name in changed
    }


def halves(paths: set[str]) -> set[str]:
    return {f"{path}.lora_{half}.weight" for path in paths for half in "AB"}


VARIANTS = {
    "two names": (Lora(4, 8, targets=["v_proj", "q_proj"]), linear(names=("q_proj", "v_proj")), ()),
    "one layer by expression": (
        Lora(4, 8, targets=r".*layers\.1\..*_proj"), linear(layers=(1,)), (),
    ),
    "no connector": (Lora(4, 8, connector=False), linear(), None),
    "embedding and head": (
        Lora(4, 8, also=["lm_head", "embed_tokens"]), linear(),
        ("lm_head.weight", "model.language_model.embed_tokens.weight"),
    ),
    "two norms of three": (  # the tower has such names too
        Lora(4, 8, targets=["o_proj"], also=["norm", "input_layernorm"]), linear(names=("o_proj",)),
        ["model.language_model.norm.weight"]
        + [f"{LANGUAGE}.{layer}.input_layernorm.weight" for layer in (0, 1)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", VARIANTS)
def test_one_step_changes_the_tensors_that_are_listed_and_no_others(toy: Toy, batch, kind):
    lora, paths, more = VARIANTS[kind]
    _, changed = stepped(toy, lora, batch)
    assert changed == halves(paths) | (PROJECTOR | {*more} if more is not None else set())


def test_dora_trains_magnitudes_as_well(toy: Toy, batch):
    lora = Lora(4, 8, dora=True, targets=["q_proj"])
    model, changed = stepped(toy, lora, batch)
    paths = linear(names=("q_proj",))
    magnitudes = {f"{path}.lora_magnitude_vector.weight" for path in paths}
    assert changed == halves(paths) | magnitudes | PROJECTOR
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {
        torch.float32
    }


def test_peft_s_own_options_are_passed_to_it(toy: Toy):
    options = {"rank_pattern": {"q_proj": 2}, "init_lora_weights": "gaussian"}
    model = with_lora(load(toy.store.get(toy.start)).model, Lora(4, 8, peft=options))
    layers = model.get_base_model().model.language_model.layers[0].self_attn
    assert layers.q_proj.lora_A.default.weight.shape[0] == 2
    assert layers.k_proj.lora_A.default.weight.shape[0] == 4
    config = model.peft_config["default"]
    assert config.init_lora_weights == "gaussian"


def test_rank_stabilised_updates_are_scaled_by_the_root_of_the_rank(toy: Toy):
    path = f"{LANGUAGE}.1.mlp.up_proj"
    for rslora, scale in ((False, 10 / 4), (True, 10 / 2)):  # alpha 10, rank 4
        model = with_lora(
            load(toy.store.get(toy.start)).model, Lora(4, 10, dropout=0.0, rslora=rslora)
        )
        layer = model.get_base_model().get_submodule(path)
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        with torch.no_grad():
            b.normal_()
            inputs = torch.randn(3, a.shape[1])
            update = (layer(inputs) - layer.base_layer(inputs)).double()
        expected = scale * inputs.double() @ a.double().T @ b.double().T
        torch.testing.assert_close(update, expected, rtol=1e-4, atol=1e-5)


def test_dora_merges_to_magnitudes_times_directions(toy: Toy):
    """By the paper's formula (arXiv 2402.09353, equation 5), in float64."""
    model = with_lora(
        load(toy.store.get(toy.start)).model.to(torch.bfloat16), Lora(4, 8, dora=True, dropout=0.0)
    )
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.add_(torch.randn_like(weight), alpha=0.3)
    layers = {path: model.get_base_model().get_submodule(path) for path in linear()}
    expected = {}
    for path, layer in layers.items():
        base, a, b = (
            weight.double()
            for weight in (
                layer.base_layer.weight, layer.lora_A.default.weight, layer.lora_B.default.weight,
            )
        )  # fmt: skip
        direction = base + 2 * b @ a
        magnitude = layer.lora_magnitude_vector.default.weight.double()
        expected[path] = magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)
    merged = merge_adapter(model, torch.float32)
    for path, weight in expected.items():
        actual = merged.get_submodule(path).weight.double()
        torch.testing.assert_close(actual, weight, rtol=2**-7, atol=1e-5)  # rounded once to bf16
        assert (actual - weight).norm() / weight.norm() < 2**-9


@torch.no_grad()
def logits(model, batch) -> torch.Tensor:
    """Through transformers' own forward, without any of ours."""
    embedded = model.get_input_embeddings()(batch.ids.clamp_max(399))
    return model(inputs_embeds=embedded, attention_mask=batch.mask.long()).logits[batch.mask]


def test_a_fit_with_every_variant_is_written_loads_in_plain_peft_and_merges(
    toy: Toy, batch, tmp_path
):
    store = shared(toy, tmp_path)
    lora = Lora(4, 8, targets=["q_proj", "down_proj"], dora=True, rslora=True, also=["norm"])
    target = toy.target(lora=lora)
    place = store.get(toy.start)
    base = LlavaForConditionalGeneration.from_pretrained(place)
    adapter = PeftModel.from_pretrained(base, store.get(target) / "adapter").eval()
    merged = target.load(store).model
    torch.testing.assert_close(logits(merged, batch), logits(adapter, batch), rtol=1e-3, atol=1e-3)
    weights = load_file(store.get(target) / "adapter" / "adapter_model.safetensors")
    assert any("lora_magnitude_vector" in name for name in weights)
    assert any(name.endswith("language_model.norm.weight") for name in weights)
    assert len([name for name in weights if "lora_A" in name]) == 4


def interrupted(target, store, monkeypatch) -> None:
    """Fit a target that fails at its fifth microbatch, and again to its end."""
    often = dataclasses.replace(target.hardware, checkpoint_seconds=0)
    target = dataclasses.replace(target, hardware=often)
    step, calls = FitModule.training_step, itertools.count(1)

    def failing(self, batch, batch_idx):
        if next(calls) == 5:
            raise InterruptedError
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(FitModule, "training_step", failing)
        with pytest.raises(InterruptedError):
            store.get(target)
    assert next(calls) == 6
    store.get(target)


def test_dora_s_fit_goes_on_after_an_interruption(toy: Toy, tmp_path, monkeypatch):
    target = toy.target(lora=Lora(4, 8, targets=["q_proj"], dora=True, rslora=True))
    adapters = []
    for name in ("whole", "interrupted"):
        (tmp_path / name).mkdir()
        store = shared(toy, tmp_path / name)
        if name == "interrupted":
            interrupted(target, store, monkeypatch)
        adapters.append(store.get(target) / "adapter" / "adapter_model.safetensors")
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


WRONG = {
    "a name": (Lora(targets=["q_pro"]), r"called q_pro; did you mean q_proj\?"),
    "an expression": (Lora(targets=r"layers\..*q_proj"), r"matches the whole path of no linear"),
    "the tower": (Lora(targets=r".*vision_tower.*q_proj"), r"no linear layer of the lang"),
    "a block": (Lora(targets=r".*language_model\.layers\.1"), "the expression matches the"),
    "a module": (Lora(also=["lm_haed"]), r"called lm_haed; did you mean lm_head\?"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_name_that_nothing_has_is_refused_with_the_nearest(toy: Toy, kind):
    lora, message = WRONG[kind]
    with pytest.raises(ValueError, match=message):
        with_lora(load(toy.store.get(toy.start)).model, lora)


def test_an_embedding_that_is_the_head_does_not_train_apart(toy: Toy):
    model = load(toy.store.get(toy.start)).model
    with pytest.raises(ValueError, match="lm_head is one weight with embed_tokens"):
        with_lora(model, Lora(also=["lm_head"]))


def test_options_that_peft_does_not_get_are_refused():
    with pytest.raises(ValueError, match=r"lora\.peft\.rank_patern.*did you mean rank_pattern\?"):
        Lora(peft={"rank_patern": {}})
    with pytest.raises(ValueError, match=r"init_lora_weights=pissa: it replaces the frozen"):
        Lora(peft={"init_lora_weights": "pissa"})


def test_only_what_is_set_is_part_of_the_key():
    assert describe(Lora()) == {"type": "Lora", "rank": 128.0, "alpha": 256.0, "dropout": 0.05}
    one, other = (describe(Lora(targets=names)) for names in (["b", "a"], ("a", "b")))
    assert one == other != describe(Lora(targets=["a"]))
    assert describe(Lora(dora=True))["dora"] is True
    every = dataclasses.replace(Lora(), rslora=True, connector=False, also=["lm_head"])
    assert describe(every) == describe(Lora()) | {
        "rslora": True, "connector": False, "also": ["lm_head"],
    }  # fmt: skip


# What it costs, before anything is loaded.

COSTS = {
    "all": Lora(7, 14),
    "names": Lora(7, 14, targets=["q_proj", "up_proj"]),
    "expression": Lora(7, 14, targets=r".*layers\.1\..*_proj"),
    "dora": Lora(7, 14, dora=True),
    "no connector": Lora(7, 14, connector=False),
    "norms": Lora(7, 14, also=["norm", "input_layernorm", "lm_head"]),
}


def numbers(lora: Lora, decoder: Decoder, *, quantised: bool = False) -> Adapters:
    return Adapters(
        lora.rank,
        adapted_matrices(decoder, lambda path, language: lora.adapts(path, language=language)),
        lora.dora,
        lora.dropout > 0,
        numbers_of(decoder, lora.also),
        lora.connector,
        quantised,
    )


@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize("text", ["llama", "phi"])
def test_the_parameters_of_an_estimate_are_those_that_train(kind, text):
    model, lora = small(text), COSTS[kind]
    if text == "phi" and kind in ("names", "norms"):
        names = ["q_proj", "dense", "fc1"] if kind == "names" else None
        lora = dataclasses.replace(lora, targets=names, also=())
    shape = shape_of(model.config)
    adapted = with_lora(model, lora)
    trains = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert memory.trained(shape, numbers(lora, shape.decoder)) == trains


@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("kind", ["names", "dora"])
def test_a_training_step_of_a_variant_is_what_torch_counts(kind, dropout):
    lora = dataclasses.replace(COSTS[kind], dropout=dropout)
    model = small()
    shape = shape_of(model.config)
    adapted = with_lora(model, lora).train()
    measured = counted(lambda: loss(adapted).backward())
    formula = flops.fit(
        shape,
        LOAD,
        towers=LOAD.rows,
        rank=numbers(lora, shape.decoder),
        fused=False,
        microbatches=1,
    )
    assert formula == pytest.approx(measured, rel=0.005)


def kept_by_autograd(lora: Lora, bits: int) -> tuple[int, float]:
    """Bytes that autograd keeps of a forward pass of the language model, and by the formula."""
    model, tokens = small(), 211
    shape = shape_of(model.config)
    model.to(torch.bfloat16 if bits == 16 else torch.float32).set_attn_implementation("sdpa")
    adapted = with_lora(model, lora).train()
    weights = {weight.untyped_storage().data_ptr() for weight in adapted.parameters()}
    matrices = {weight.shape for weight in adapted.parameters() if weight.ndim == 2}
    casts = matrices | {torch.Size(reversed(shape)) for shape in matrices}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights and tensor.shape not in casts:
            saved[place] = tensor
        return tensor

    hidden = torch.ones(1, tokens, shape.decoder.width, requires_grad=True)
    with (
        configured(adapted, Hardware(), "bf16-mixed" if bits == 16 else "32-true"),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bits == 16),
    ):
        language_model(adapted)(inputs_embeds=hidden, use_cache=False)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    rank = numbers(lora, shape.decoder)
    return measured, memory.FitMemory(shape.decoder, 0.0, bits, rank).peak(tokens, 0, 0)


@pytest.mark.parametrize("bits", [32, 16])
def test_what_dora_keeps_in_addition_is_the_outputs_that_magnitudes_multiply(bits):
    plain, dora = (kept_by_autograd(Lora(7, 14, dora=dora), bits) for dora in (False, True))
    assert dora[1] - plain[1] == pytest.approx(dora[0] - plain[0], rel=0.15)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_an_estimate_counts_what_a_model_of_a_variant_has(precision):
    model, lora = small(), Lora(7, 14, targets=["q_proj", "up_proj"], dora=True, connector=False)
    shape = shape_of(model.config)
    kept = fit_memory(
        trainable(model, lora, precision), dataclasses.replace(RECIPE, precision=precision),
        Hardware(),
    )  # fmt: skip
    rank = numbers(lora, shape.decoder)
    bits = 32 if precision == "32-true" else 16
    assert kept.states == pytest.approx(
        memory.states(shape, bits=bits, rank=rank, halved=True), rel=0.01
    )
    assert isinstance(kept.rank, Adapters)
    assert block(kept.rank, shape.decoder, bits) == block(rank, shape.decoder, bits)


def block(rank: Adapters, decoder: Decoder, bits: int) -> float:
    return memory.block_bytes(decoder, bits=bits, rank=rank)
