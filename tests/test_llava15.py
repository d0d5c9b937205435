"""LLaVA-1.5 as a target: where it starts, what trains, and the configurations that say so."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from toy import HARDWARE, Toy, declared, losses, recorded
from transformers import AutoModelForCausalLM, CLIPModel

from xmas.cli.config import build
from xmas.estimate import Estimate
from xmas.models.answer_loss import answer_loss
from xmas.models.assembled import Assembled
from xmas.models.chat.batches import Loader
from xmas.models.chat.template import VICUNA_SYSTEM, Plain
from xmas.models.projector import projector_file
from xmas.models.published import Published
from xmas.models.sources import Source
from xmas.models.specs import FULL_SIZE, unbuilt
from xmas.models.tokenizer import TrainedTokenizer
from xmas.models.vision_cache import FromFiles
from xmas.models.vlm import load, tower_features, unwrap
from xmas.store import Made, key
from xmas.target.target import Target
from xmas.training.fit.module import FitModule
from xmas.training.fit.recipe import Recipe
from xmas.training.fit.trainables import Lora, projector_alone, trainable
from xmas.training.starts.first_stage import FirstStage

RECIPE = Recipe(rate=1e-2, projector_rate=1e-2, batch=8, micro_batch=4, precision="bf16-mixed")
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def projector(width: int = 24, hidden: int = 48, prefix: str = "model.mm_projector.") -> dict:
    """What LLaVA's first stage leaves between the tiny tower and language models."""
    generator = torch.Generator().manual_seed(11)
    shapes = {"0.weight": (hidden, width), "0.bias": (hidden,)}
    shapes |= {"2.weight": (hidden, hidden), "2.bias": (hidden,)}
    return {
        prefix + name: torch.randn(shape, generator=generator) / 5 for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A Llama, a CLIP and a projector as three places on a disk."""
    place = tmp_path_factory.mktemp("llava15")
    tokenizer = tiny.tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        tiny.language("llama", len(tokenizer)).save_pretrained(place / "language")
        tiny.clip().save_pretrained(place / "tower")
    tokenizer.save_pretrained(place / "language")
    (place / "projector").mkdir()
    torch.save(projector(), place / "projector" / "mm_projector.bin")
    pretrained = {"model_type": "llava", "tune_mm_mlp_adapter": True}
    (place / "projector" / "config.json").write_text(json.dumps(pretrained))
    return place


@pytest.fixture(scope="module")
def start(folder) -> Assembled:
    return Assembled(
        *(Source(str(folder / name)) for name in ("language", "tower", "projector")),
        aspect="pad",
        dtype="float16",
    )


@pytest.fixture(scope="module")
def target(toy: Toy, start) -> Target:
    return Target(
        toy.subset(), start, RECIPE, Lora(4, 8), tiny.PHI, hardware=HARDWARE, max_length=1024
    )


def of_two_steps(toy: Toy, target: Target) -> Target:
    """The target on eleven rows: the first step of a warm-up changes nothing."""
    return dataclasses.replace(target, subset=toy.subset(rows=11))


@pytest.fixture(scope="module")
def projector_weights(toy: Toy, start) -> dict[str, torch.Tensor]:
    """Of the assembled model."""
    return tiny.shared_model(start, toy.store).model.model.multi_modal_projector.state_dict()


# --- the start point ---


def test_every_weight_of_the_three_parts_is_in_the_assembled_model(toy: Toy, folder, start):
    parts = tiny.shared_model(start, toy.store)
    weights = parts.model.state_dict()
    language = AutoModelForCausalLM.from_pretrained(folder / "language").state_dict()
    tower = CLIPModel.from_pretrained(folder / "tower").vision_model.state_dict()
    expected = {f"model.vision_tower.{name}": weight for name, weight in tower.items()}
    expected |= {
        name if "lm_head" in name else f"model.language_{name}": weight
        for name, weight in language.items()
    }
    linear = {"0": "linear_1", "2": "linear_2"}
    for name, weight in projector(prefix="").items():
        number, rest = name.split(".")
        expected[f"model.multi_modal_projector.{linear[number]}.{rest}"] = weight
    assert weights.keys() == expected.keys()
    for name, weight in expected.items():
        assert weights[name].dtype == torch.float16
        assert torch.equal(weights[name][: len(weight)], weight.half()), name
    lines, tokens = len(weights["lm_head.weight"]), len(parts.tokenizer)
    assert (parts.model.config.image_token_id, lines % 64) == (tokens, 0)
    assert lines >= tokens + 2  # the image's line and the pad's
    assert not weights["lm_head.weight"][tokens:].any()
    assert not weights["model.language_model.embed_tokens.weight"][tokens:].any()
    assert (parts.processor.size, parts.processor.aspect) == (21, "pad")


@torch.no_grad()
def test_the_assembled_model_gives_the_logits_of_its_parts_by_hand(toy: Toy, folder, start):
    """Tower, projector and language model one behind the other, none of them LLaVA's classes."""
    whole = dataclasses.replace(start, dtype="float32")
    parts = tiny.shared_model(whole, toy.store)
    language = AutoModelForCausalLM.from_pretrained(folder / "language").eval()
    tower = CLIPModel.from_pretrained(folder / "tower").vision_model.eval()
    layers = projector(prefix="")
    pixels = torch.randn(2, 3, 21, 21, generator=torch.Generator().manual_seed(1))
    image_features = tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    projected = torch.nn.functional.gelu(image_features @ layers["0.weight"].T + layers["0.bias"])
    projected = projected @ layers["2.weight"].T + layers["2.bias"]
    text = torch.tensor([[5, 9, 12, 30, 7], [44, 8, 21, 3, 60]])
    embedded = language.get_input_embeddings()(text)
    by_hand = torch.cat([embedded[:, :2], projected, embedded[:, 2:]], dim=1)
    expected = language(inputs_embeds=by_hand).logits
    image = torch.full((2, 9), parts.model.config.image_token_id)
    ids = torch.cat([text[:, :2], image, text[:, 2:]], dim=1)
    logits = parts.model(input_ids=ids, pixel_values=pixels).logits
    torch.testing.assert_close(logits[..., : expected.shape[-1]], expected, rtol=1e-5, atol=1e-5)
    assert not logits[..., expected.shape[-1] :].any()
    assert expected.std() > 0.1


@pytest.mark.parametrize(
    "prefix", ["model.mm_projector.", "mm_projector.", "base_model.model.model.mm_projector."]
)
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_a_projector_is_read_under_any_prefix_and_in_both_formats(
    toy, start, projector_weights, tmp_path, prefix, suffix
):
    file = tmp_path / f"mm_projector.{suffix}"
    weights = projector(prefix=prefix) | {"model.embed_tokens.weight": torch.zeros(2, 2)}
    torch.save(weights, file) if suffix == "bin" else save_file(weights, file)
    assert projector_file(tmp_path) == projector_file(file) == file
    renamed = dataclasses.replace(start, projector=Source(str(file)))  # the others name folders
    stored = load_file(toy.store.get(renamed) / "model.safetensors")
    read = {
        name.rpartition("multi_modal_projector.")[2]: weight
        for name, weight in stored.items()
        if "multi_modal_projector" in name
    }
    assert read.keys() == projector_weights.keys()
    assert all(torch.equal(read[name], weight) for name, weight in projector_weights.items())


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (projector(hidden=56), "a projector fits only the models it was trained between"),
        (projector() | {"model.mm_projector.4.weight": torch.zeros(48, 48)}, r"'4\.weight'"),
        ({"linear.weight": torch.zeros(3)}, r"no name has `mm_projector\.` in it"),
    ],
    ids=["another width", "three layers", "no projector"],
)
def test_a_projector_of_other_models_is_refused(toy: Toy, start, tmp_path, held, message):
    torch.save(held, tmp_path / "mm_projector.bin")
    foreign = dataclasses.replace(start, projector=Source(str(tmp_path)))
    with pytest.raises(ValueError, match=message):
        toy.store.get(foreign)


def test_a_folder_without_a_projector_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no mm_projector\.bin or mm_projector\.saf"):
        projector_file(tmp_path)


def test_without_a_file_the_projector_is_random(toy: Toy, start):
    parts = load(toy.store.get(dataclasses.replace(start, projector=None)))
    layers = parts.model.model.multi_modal_projector
    assert layers.linear_1.weight.float().std().item() == pytest.approx(0.02, rel=0.1)
    assert not layers.linear_1.bias.any()


@pytest.mark.parametrize(
    ("part", "config"),
    [
        ("projector", {"architectures": ["LlavaLlamaForCausalLM"], "tune_mm_mlp_adapter": False}),
        ("projector", {"model_type": "llava_llama"}),
        ("language", {"model_type": "llava"}),
        ("language", {"model_type": "llama", "mm_projector_type": "mlp2x_gelu"}),
    ],
    ids=str,
)
def test_parts_of_a_tuned_llava_are_refused_unless_told(toy, target, tmp_path, part, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(projector(), tmp_path / "mm_projector.bin")
    start = dataclasses.replace(target.start, **{part: Source(str(tmp_path))})
    with pytest.raises(ValueError, match=r"was tuned on instructions: .*target\.from_tuned=true"):
        toy.store.get(dataclasses.replace(target, start=start))
    if part == "projector":
        allowed = dataclasses.replace(target, start=start, from_tuned=True, untrained=True)
        assert (toy.store.get(allowed) / "adapter").is_dir()


def test_a_whole_model_is_refused_unless_told(toy: Toy, target, tmp_path_factory):
    published = tiny.shared_start(tiny.KINDS["phi"], tmp_path_factory)
    with pytest.raises(ValueError, match="is a whole vision-language model, tuned on instruc"):
        toy.store.get(dataclasses.replace(target, start=published))
    assert Published(Source("llava-hf/llava-1.5-7b-hf")).tuned(toy.store) is not None


def test_a_made_start_is_known_without_its_files(toy: Toy, start, monkeypatch):
    toy.store.get(start)
    monkeypatch.setattr(Source, "folder", lambda _: pytest.fail("the files are asked for"))
    assert start.tuned(toy.store) is None


def test_pretrained_parts_and_the_demo_s_start_are_not_tuned(toy: Toy, start, folder):
    for fine in (start, toy.start, toy.untrained):
        assert fine.tuned(toy.store) is None
    file = Source(str(folder / "projector" / "mm_projector.bin"))
    assert dataclasses.replace(start, projector=file).refuse_tuned(toy.store) is None


def test_random_weights_need_no_file(toy: Toy, target, tmp_path):
    random = Assembled(Source("lmsys/vicuna-7b-v1.5"), Source("openai/clip-vit-large-patch14-336"))
    config = FULL_SIZE["llava15_7b"]()
    assert random.shape().parameters == pytest.approx(config_parameters("llava15_7b"), rel=1e-3)
    assert config.text_config.vocab_size == 32064
    tokenizer = TrainedTokenizer([toy.pool], vocabulary=400)
    small = dataclasses.replace(target.start, drawn=tokenizer)  # sizes of folders, not their files
    fit = dataclasses.replace(target, start=small, template=tiny.Template(), untrained=True)
    folder = toy.store.get(fit)
    assert (folder / "adapter").is_dir()
    parts = tiny.shared_model(small, toy.store)
    assert parts.model.dtype == torch.float16
    assert parts.tokenizer.bos_token == "<s>"
    again = load(toy.store.get(dataclasses.replace(small, seed=1))).model.lm_head.weight
    assert not torch.equal(again, parts.model.lm_head.weight)
    tiny.language_config("llama", 261).save_pretrained(tmp_path)
    few = dataclasses.replace(small, language=Source(str(tmp_path)))
    with pytest.raises(ValueError, match="two of which are the image's and the pad's"):
        toy.store.get(few)


# --- what trains ---


@pytest.fixture(scope="module")
def batch(toy: Toy, target):
    parts = tiny.shared_model(target.start, toy.store)
    loader = Loader(
        target.tokens().open(toy.store),
        [np.array([0, 3, 2, 5])],
        image_token=parts.model.config.image_token_id,
        pad=parts.tokenizer.pad_token_id,
        pictures=FromFiles(toy.pool.open(toy.store), parts.processor),
    )
    return next(iter(loader))


def stepped(toy: Toy, target: Target, batch) -> tuple[torch.nn.Module, set[str]]:
    """A model behind one optimiser step as a fit takes it, and the names that changed."""
    model = trainable(tiny.own_model(target.start, toy.store).model, target.lora, RECIPE.precision)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)  # at zero the other half would get no gradient
    before = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    module = FitModule(model, RECIPE, steps=2, seed=0)
    module.on_fit_start()
    configured = module.configure_optimizers()
    for group in configured["optimizer"].param_groups:
        group["lr"] = 1e-2  # the warm-up's first is zero
    with torch.autocast("cpu", torch.bfloat16):
        loss = module.training_step(batch, 0)
    loss.backward()
    configured["optimizer"].step()
    after = model.state_dict()
    return model, {name for name, weight in before.items() if not torch.equal(weight, after[name])}


def test_one_step_of_lora_changes_these_tensors_and_no_others(toy: Toy, target, batch):
    model, changed = stepped(toy, target, batch)
    base = "base_model.model.model"
    expected = {
        f"{base}.language_model.layers.{layer}.{block}.{linear}.lora_{half}.default.weight"
        for layer in range(3)
        for half in "AB"
        for linear in LINEAR
        for block in ["self_attn" if linear in LINEAR[:4] else "mlp"]
    } | {
        f"{base}.multi_modal_projector.modules_to_save.default.linear_{number}.{kind}"
        for number in (1, 2)
        for kind in ("weight", "bias")
    }
    assert changed == expected
    check_types(model)


def test_one_step_in_full_changes_all_but_the_tower(toy: Toy, target, batch):
    model, changed = stepped(toy, dataclasses.replace(target, lora=None), batch)
    blocks = [
        *(f"self_attn.{name}" for name in LINEAR[:4]),
        *(f"mlp.{name}" for name in LINEAR[4:]),
    ]
    blocks += ["input_layernorm", "post_attention_layernorm"]
    expected = {
        f"model.language_model.layers.{at}.{name}.weight" for at in range(3) for name in blocks
    }
    expected |= {"model.language_model.embed_tokens.weight", "model.language_model.norm.weight"}
    expected |= {
        f"model.multi_modal_projector.linear_{number}.{kind}"
        for number in (1, 2)
        for kind in ("weight", "bias")
    } | {"lm_head.weight"}
    assert changed == expected
    check_types(model)


def check_types(model: torch.nn.Module) -> None:
    """Trainables in float32 with a gradient, the rest in bfloat16 without; so the whole tower."""
    for name, weight in model.named_parameters():
        assert weight.requires_grad == (weight.grad is not None), name
        assert weight.dtype == (torch.float32 if weight.requires_grad else torch.bfloat16), name
    tower = list(unwrap(model).model.vision_tower.parameters())
    assert len(tower) > 20
    assert not any(weight.requires_grad for weight in tower)


def test_no_gradient_reaches_the_tower_s_output(toy: Toy, target, batch):
    model = trainable(tiny.own_model(target.start, toy.store).model, target.lora, RECIPE.precision)
    image_features = tower_features(model, batch.pictures["pixels"])
    assert not image_features.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        answer_loss(model, batch.ids, batch.mask, batch.labels, image_features).backward()
    assert image_features.grad is None


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16), ("32-true", torch.float32)],
)
def test_what_is_frozen_has_the_precision_s_type(toy: Toy, target, precision, dtype):
    model = trainable(tiny.own_model(target.start, toy.store).model, target.lora, precision)
    assert {weight.dtype for weight in model.parameters() if not weight.requires_grad} == {dtype}
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {
        torch.float32
    }


def test_a_fit_in_full_is_kept_and_loaded(toy: Toy, target):
    full = dataclasses.replace(of_two_steps(toy, target), lora=None)
    place = toy.store.get(full)
    assert not (place / "adapter").exists()
    before = tiny.shared_model(full.start, toy.store).model.state_dict()
    after = full.load(toy.store).model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in before if "vision_tower" not in name} == moved
    assert set(full.weights_at(toy.store, full.steps(toy.store)[-1])) == moved


def test_an_adapter_is_merged_with_one_rounding(toy: Toy, target):
    """W + B A s in float64, rounded to the stored type once."""
    target = of_two_steps(toy, target)
    adapter = load_file(toy.store.get(target) / "adapter" / "adapter_model.safetensors")
    before = tiny.shared_model(target.start, toy.store).model.state_dict()
    after = target.load(toy.store).model.state_dict()
    name = "model.language_model.layers.1.mlp.down_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{half}.weight"].double() for half in "AB")
    exact = before[f"{name}.weight"].double() + 8 / 4 * b @ a
    wrong = (after[f"{name}.weight"] != exact.to(torch.float16)).float().mean()
    assert after[f"{name}.weight"].dtype == torch.float16
    assert wrong < 0.01  # sums in float32 at the edge between two
    assert not torch.equal(before[f"{name}.weight"], after[f"{name}.weight"])


# --- the configurations ---


def config_parameters(name: str) -> int:
    return sum(weight.numel() for weight in unbuilt(FULL_SIZE[name]()).parameters())


@pytest.mark.parametrize(
    ("name", "whole", "lora"),
    [("llava15_7b", 7_063_427_072, 319_815_680), ("llava15_13b", 13_351_494_656, 500_695_040)],
)
def test_targets_at_full_size_train_as_many_numbers_as_llava_s(name, whole, lora):
    """The start of the layout, LoRA's 319,815,680 and the projector's 20,979,712 of 7B."""
    model = unbuilt(FULL_SIZE[name]())
    assert sum(weight.numel() for weight in model.parameters()) == whole
    with torch.device("meta"):  # else PEFT draws a gigabyte of random numbers, twice
        adapted = trainable(model, Lora(), "bf16-mixed")
    trains = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    between = sum(weight.numel() for name, weight in trains.items() if "projector" in name)
    assert sum(weight.numel() for weight in trains.values()) - between == lora
    if name == "llava15_7b":
        assert between == 20_979_712
    assert {weight.device.type for weight in adapted.parameters()} == {"meta"}
    assert {weight.dtype for weight in trains.values()} == {torch.float32}


@pytest.mark.parametrize(("name", "size"), [("llava15_7b", "7b"), ("llava15_13b", "13b")])
def test_the_official_start_and_recipe(name, size, compose):
    """LLaVA `scripts/v1_5/finetune_lora.sh`."""
    official = build(compose(f"target={name}").target)
    assert isinstance(official, Target)
    assert isinstance(official.start, Assembled)
    assert official.start.language.name == f"lmsys/vicuna-{size}-v1.5"
    assert official.start.vision.name == "openai/clip-vit-large-patch14-336"
    assert official.start.projector is not None
    assert official.start.projector.name == (
        f"liuhaotian/llava-v1.5-mlp2x-336px-pretrain-vicuna-{size}-v1.5"
    )
    assert (official.start.feature_layer, official.start.aspect, official.start.drawn) == (
        -2,
        "pad",
        None,
    )
    assert official.lora == Lora(128, 256, 0.05)
    assert official.recipe == Recipe(
        rate=2e-4, projector_rate=2e-5, batch=128, micro_batch=16, epochs=1, warmup=0.03,
        weight_decay=0.0, clip=None, precision="bf16-mixed",
    )  # fmt: skip
    assert official.recipe.steps(665_298) == 5_198
    assert official.max_length == 2048  # not the demo's
    assert official.template.system == VICUNA_SYSTEM


def test_the_other_recipes(compose):
    full = build(compose("target=llava15_7b", "target/recipe=full").target)
    assert full.lora is None
    assert (full.recipe.rate, full.recipe.projector_rate, full.recipe.clip) == (2e-5, 2e-5, None)
    assert full.recipe.batch == 128
    xmas = build(compose("target=llava15_7b", "target/recipe=lora_xmas").target)
    assert xmas.lora == Lora(128, 256, 0.05)
    assert (xmas.recipe.clip, xmas.recipe.micro_batch, xmas.recipe.batch) == (1.0, 8, 128)
    assert (xmas.recipe.precision, xmas.recipe.rate) == ("16-mixed", 2e-4)
    assert xmas.recipe.projector_rate == 2e-5


def test_hardware_and_the_name_of_the_weights_alone_are_no_identity(compose):
    cfgs = [compose("target=llava15_7b", *more) for more in ([], ["hardware=h200"])]
    assert len({key(build(cfg.target)) for cfg in cfgs}) == 1
    random = build(compose("target=llava15_7b", "target.weights=random").target)
    assert isinstance(random.start.drawn, TrainedTokenizer)
    assert random.start.drawn.vocabulary == 32000
    assert key(random) != key(build(cfgs[0].target))


@pytest.mark.parametrize("name", ["llava15_7b", "llava15_13b"])
def test_random_weights_are_estimated_without_any_file(name, tmp_path, compose):
    cfg = compose(f"target={name}", "target.weights=random", "goal=estimate", "hardware=h200")
    estimate = build(cfg.estimate)
    assert isinstance(estimate, Estimate)
    page = estimate.make(build(compose(f"store.root={tmp_path / 'store'}").store))
    assert "LoRA of rank 128" in page
    assert "random weights in the store, float16" in page
    assert not (tmp_path / "store").exists()


# --- the first stage ---


def test_the_first_stage_trains_the_projector_alone_and_a_target_starts_from_it(toy, target):
    blank = dataclasses.replace(target.start, projector=None)
    stage = FirstStage(blank, toy.pool, RECIPE, max_length=1024, hardware=HARDWARE)
    curve = losses(toy.store.get(stage))
    assert len(curve) == 6
    assert curve[-1]["loss"] < curve[0]["loss"]
    learnt = load_file(toy.store.get(stage) / "mm_projector.safetensors")
    assert {name: tuple(weight.shape) for name, weight in learnt.items()} == {
        name: tuple(weight.shape) for name, weight in projector().items()
    }
    assert {weight.dtype for weight in learnt.values()} == {torch.float32}
    projector_file = Made(stage, "mm_projector.safetensors")
    whole = dataclasses.replace(target.start, projector=projector_file)
    before = tiny.shared_model(blank, toy.store).model.state_dict()
    after = tiny.shared_model(whole, toy.store).model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "multi_modal_projector" in name}
    bias_free = after["model.multi_modal_projector.linear_2.weight"]
    assert torch.equal(bias_free, learnt["model.mm_projector.2.weight"].half())
    assert whole.tuned(toy.store) is None
    for computed in (blank, stage, stage.tokens(), whole):
        assert recorded(toy.store, computed) == declared(computed)


def test_the_first_stage_trains_nothing_else(toy: Toy, target):
    model = projector_alone(tiny.own_model(target.start, toy.store).model, "bf16-mixed")
    trains = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(trains) == 4
    assert all("multi_modal_projector" in name for name in trains)
    assert {weight.dtype for weight in model.parameters() if not weight.requires_grad} == {
        torch.bfloat16
    }


@pytest.mark.parametrize("name", ["llava15_7b", "llava15_13b"])
def test_the_official_first_stage(name, tmp_path, compose):
    """LLaVA `scripts/v1_5/pretrain.sh`."""
    cfg = compose(
        f"target={name}",
        "projector@target.start.projector=first_stage",
        "target.start.projector.stage.pool.annotations=captions.json",
        "target.start.projector.stage.pool.images=.",
        f"store.root={tmp_path}",
        "hardware=h200",
    )
    start = build(cfg.target).start
    assert isinstance(start.projector, Made)
    stage = start.projector.stage
    assert isinstance(stage, FirstStage)
    assert stage.start == dataclasses.replace(start, projector=None)
    recipe = stage.recipe
    assert (recipe.projector_rate, recipe.batch, recipe.epochs, recipe.warmup) == (
        1e-3,
        256,
        1,
        0.03,
    )
    assert recipe.steps(558_128) == 2_181
    assert isinstance(stage.template, Plain)
    assert stage.max_length == 2048
    page = build(cfg.estimate).make(build(cfg.store))
    assert "the projector alone learns" in page
