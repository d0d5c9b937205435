"""Qwen2.5-VL and Qwen3-VL: tokens, positions, deep features and fits are transformers' own."""

import dataclasses

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from test_activations import HALF, joined, outputs
from test_llava15 import LINEAR
from tiny_families import TINY, VISION
from toy import HARDWARE, Toy, losses
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from xmas.cli.config import build
from xmas.estimate import Estimate
from xmas.features.activations import Activations
from xmas.features.pooled import Windows
from xmas.models.answer_loss import answer_loss
from xmas.models.chat.batches import Batch, Loader
from xmas.models.chat.layout import FEATURE
from xmas.models.chat.packing import pack
from xmas.models.chat.template import Template
from xmas.models.families.qwen25_vl import Qwen25Vl, window_order
from xmas.models.families.qwen_vl import NativeImages
from xmas.models.published import Published
from xmas.models.specs import FULL_SIZE, unbuilt
from xmas.models.vision_cache import FromFiles
from xmas.models.vlm import LoadedModel, hidden_states, language_inputs, load, positions_of, unwrap
from xmas.results.notes import about_starts
from xmas.store import describe
from xmas.target.target import Target
from xmas.training.fit.module import features_of
from xmas.training.fit.recipe import Hardware, Recipe
from xmas.training.fit.speed import configured
from xmas.training.fit.trainables import Lora, trainable
from xmas.training.proxy import Proxy

SIZES = [(16, 16), (19, 37), (37, 19), (5, 61), (101, 103), (24, 23), (7, 7), (480, 640), (90, 29)]
RECIPE = Recipe(rate=1e-2, projector_rate=1e-2, batch=8, micro_batch=4, precision="bf16-mixed")


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def start(kind, tmp_path_factory) -> Published:
    return tiny.shared_start(TINY[kind].write, tmp_path_factory)


@pytest.fixture(scope="module")
def parts(toy: Toy, start) -> LoadedModel:
    return tiny.own_model(start, toy.store)


@pytest.fixture(scope="module")
def template(kind, compose) -> Template:
    name = {"qwen2_5_vl": "qwen25_vl_3b", "qwen3_vl": "qwen3_vl_4b"}[kind]
    return build(compose(f"target={name}").target).template


@pytest.fixture(scope="module")
def target(toy: Toy, start, template) -> Target:
    return Target(
        toy.subset(), start, RECIPE, Lora(4, 8), template, from_tuned=True, hardware=HARDWARE,
        max_length=1024,
    )  # fmt: skip


@pytest.fixture(scope="module")
def batches(toy: Toy, parts, target) -> dict[str, Batch]:
    rows = {"mixed": [0, 3, 16, 2], "images": [8, 5, 10, 4], "text": [40, 19]}
    loader = Loader(
        target.tokens().open(toy.store),
        [np.array(numbers) for numbers in rows.values()],
        image_token=parts.model.config.image_token_id,
        pad=parts.tokenizer.pad_token_id,
        pictures=FromFiles(toy.pool.open(toy.store), parts.processor),
    )
    return dict(zip(rows, loader, strict=True))


@pytest.fixture(params=["mixed", "images", "text"])
def batch(request, batches) -> Batch:
    return batches[request.param]


def own_inputs(parts: LoadedModel, batch: Batch) -> dict[str, torch.Tensor]:
    """What the model's own forward takes."""
    config = parts.model.config
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask.long()}
    if batch.pictures:
        grid = batch.pictures["sizes"] // config.vision_config.patch_size
        inputs["pixel_values"] = batch.pictures["pixels"]
        inputs["image_grid_thw"] = torch.nn.functional.pad(grid, (1, 0), value=1)
        inputs["mm_token_type_ids"] = (batch.ids == config.image_token_id).int()
    return inputs


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_image_has_as_many_tokens_as_its_processor_and_the_model_give(parts, size):
    height, width = size
    rng = np.random.default_rng(height * width)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    inputs = parts.processor.own([image], return_tensors="pt")
    tokens = parts.layout.tokens(size)
    marks = parts.tokenizer.convert_tokens_to_ids(VISION[:2])
    assert [tokens[0], tokens[-1]] == marks
    assert (tokens == FEATURE).sum() == len(tokens) - 2 == inputs["image_grid_thw"].prod() // 4
    theirs = parts.model.get_image_features(**inputs).pooler_output
    assert len(torch.cat(list(theirs))) == len(tokens) - 2


def test_full_size_pictures_have_the_published_numbers_of_tokens(compose):
    own = Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=1003520)
    layout = Qwen25Vl().layout(FULL_SIZE["qwen25_vl_3b"](), NativeImages(own), tiny.tokenizer())
    counts = {(480, 640): 17 * 23, (336, 336): 144, (28, 28): 4, (3000, 3000): 35 * 35}
    for size, count in counts.items():
        assert (layout.tokens(size) == FEATURE).sum() == count
    assert build(compose("target=qwen25_vl_3b").target).start.images == {
        "min_pixels": 3136, "max_pixels": 1003520,
    }  # fmt: skip


def test_windows_by_hand():
    """5 x 4 tokens in windows of 3 x 3, then a picture of one window behind them."""
    expected = [0, 1, 2, 4, 5, 6, 8, 9, 10, 3, 7, 11, 12, 13, 14, 16, 17, 18, 15, 19, 20, 21]
    assert window_order(torch.tensor([[5, 4], [1, 2]]), 3).tolist() == expected


def test_positions_by_hand():
    """Two tokens, 2 x 3 of an image, two tokens: text goes on behind the longer side."""
    config = build_config(image=9)
    ids = torch.tensor([[5, 6, 9, 9, 9, 9, 9, 9, 7, 8], [5, 6, 7, 8, 0, 0, 0, 0, 0, 0]])
    counted = torch.arange(10).expand(2, -1)
    positions = Qwen25Vl().positions(config, ids, counted, torch.tensor([[56, 84]]))
    assert positions[0, 0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 5, 6]
    assert positions[1, 0].tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 5, 6]
    assert positions[2, 0].tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]
    assert positions[:, 1, :4].tolist() == [[0, 1, 2, 3]] * 3


def build_config(image: int) -> Qwen2_5_VLConfig:
    config = FULL_SIZE["qwen25_vl_3b"]()
    config.image_token_id = image
    return config


def test_positions_are_those_of_the_model(parts, batch):
    inputs = own_inputs(parts, batch)
    positions = positions_of(parts.model, batch.ids, batch.pictures.get("sizes"))
    if batch.pictures:
        del inputs["pixel_values"]
        expected, _ = parts.model.model.get_rope_index(**inputs)
        assert len(set(expected[1][batch.mask].tolist())) > 20
    else:
        expected = (batch.mask.long().cumsum(1) - 1)[None].expand(3, -1, -1)
    assert torch.equal(positions[:, batch.mask], expected[:, batch.mask])


@torch.no_grad()
def test_hidden_states_logits_and_loss_equal_those_of_transformers(parts, batch):
    features, sizes = features_of(parts.model, batch), batch.pictures.get("sizes")
    ours = hidden_states(parts.model, batch.ids, batch.mask, features, sizes=sizes)
    parts.model.model.rope_deltas = None  # of an earlier call
    theirs = parts.model(**own_inputs(parts, batch), labels=batch.labels)
    logits = parts.model.lm_head(ours)
    torch.testing.assert_close(logits[batch.mask], theirs.logits[batch.mask], rtol=1e-4, atol=1e-4)
    loss = answer_loss(parts.model, batch.ids, batch.mask, batch.labels, features, sizes=sizes)
    torch.testing.assert_close(loss, theirs.loss, rtol=1e-5, atol=0)
    assert logits[batch.mask].std() > 0.1


@torch.no_grad()
def test_packed_rows_have_the_hidden_states_of_padded_ones(parts, batch):
    """Each row counts its three axes from its own start."""
    features, sizes = features_of(parts.model, batch), batch.pictures.get("sizes")
    padded = hidden_states(parts.model, batch.ids, batch.mask, features, sizes=sizes)
    line = pack(batch)
    with configured(parts.model, Hardware(packing=True)):
        packed = hidden_states(
            parts.model, line.ids, line.mask, features, sizes=sizes, lengths=line.lengths
        )
    torch.testing.assert_close(packed[0], padded[batch.mask], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_without_the_three_axes_the_numbers_are_others(parts, batches):
    """Or the comparison above would say nothing about positions."""
    batch = batches["images"]
    features, sizes = features_of(parts.model, batch), batch.pictures["sizes"]
    ours = hidden_states(parts.model, batch.ids, batch.mask, features, sizes=sizes)
    flat = torch.stack([sizes[:, 0] // sizes[:, 0] * 8, sizes.prod(dim=1) // 8], dim=1)
    positions = positions_of(parts.model, batch.ids, flat)
    embedded = parts.model.get_input_embeddings()(batch.ids)
    inputs = {"inputs_embeds": embedded, "attention_mask": batch.mask.long()}
    plain = parts.model.model.language_model(**inputs).last_hidden_state
    others = parts.model.model.language_model(**inputs, position_ids=positions).last_hidden_state
    assert (plain - others)[batch.mask].abs().max() > 1e-2
    assert ours.shape == plain.shape


@torch.no_grad()
def test_what_inner_layers_of_the_tower_add_matters(kind, parts, batches):
    """Or hidden states would be transformers' with them left out on both sides."""
    batch = batches["mixed"]
    features, sizes = features_of(parts.model, batch), batch.pictures["sizes"]
    arguments = language_inputs(parts.model, batch.ids, features, sizes).arguments
    deep = arguments.pop("deepstack_visual_embeds", None)
    assert (deep is not None) == (kind == "qwen3_vl")
    if deep is None:
        return
    assert len(deep) == 2
    del arguments["visual_pos_masks"]
    without = parts.model.model.language_model(**arguments).last_hidden_state
    whole = hidden_states(parts.model, batch.ids, batch.mask, features, sizes=sizes)
    assert (whole - without)[batch.mask].abs().max() > 1e-2


def test_activations_are_those_of_the_model_s_own_forward(toy: Toy, parts, target, batches):
    """COINCIDE's features of rows with and without an image, in one batch."""
    proxy = Proxy(
        toy.pool, target.start, RECIPE, target.template, cache_vision=False, max_length=1024,
        hardware=HARDWARE,
    )  # fmt: skip
    stage = Activations(proxy, step=0, layers=(0, 2), weights="float32")
    batch = batches["mixed"]
    windows = Windows.of(proxy.tokens().open(toy.store), released=False)
    values = stage.features(parts, batch, windows)
    positions = windows.positions(batch, parts.model.config.image_token_id).numpy()
    parts.model.model.rope_deltas = None  # of an earlier call
    layers = outputs(parts, (0, 2), **own_inputs(parts, batch))
    for row, (image, text) in enumerate(positions):
        means = []
        for layer in layers:
            spots = layer[row][image]
            means.append(spots.mean(axis=0) if len(spots) else 0 * layer[row][0])
            means.append(layer[row][text].mean(axis=0))
        assert values[row] == pytest.approx(joined(means), abs=HALF)


def test_the_rendered_text_is_the_repository_s(kind, parts, template):
    tokens = parts.encoder(template).conversation(
        [("What?", "A fig."), ("Sure?", "Yes.")], image=parts.layout.tokens((16, 16))
    )
    token = parts.model.config.image_token_id
    image_ids = np.where(tokens.image == FEATURE, token, tokens.image)
    ids = np.insert(tokens.ids, tokens.image_at, image_ids)
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    assert parts.tokenizer.decode(ids) == ("" if kind == "qwen3_vl" else system) + (
        "<|im_start|>user\n"
        "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>What?<|im_end|>\n"
        "<|im_start|>assistant\nA fig.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>\n"
    )
    assert parts.tokenizer.decode(tokens.ids[tokens.labelled]) == "A fig.<|im_end|>Yes.<|im_end|>"


def test_lora_and_the_merger_train_and_the_rest_of_the_tower_does_not(toy, target, batches):
    model = trainable(tiny.own_model(target.start, toy.store).model, target.lora, RECIPE.precision)
    batch = batches["mixed"]
    with torch.autocast("cpu", torch.bfloat16):
        features, sizes = features_of(model, batch), batch.pictures["sizes"]
        answer_loss(model, batch.ids, batch.mask, batch.labels, features, sizes=sizes).backward()
    trains = {name for name, weight in model.named_parameters() if weight.requires_grad}
    between = {name for name in trains if "merger" in name}
    merger = tiny.shared_model(target.start, toy.store).model.model.visual.merger
    whole = {name for name, _ in merger.named_parameters()}
    assert {name.rpartition("default.")[2] for name in between} == whole
    linear = {name.split(".lora_")[0].rpartition(".")[2] for name in trains - between}
    assert linear == set(LINEAR)
    assert len(trains - between) == 3 * 7 * 2
    assert all("language_model" in name for name in trains - between)
    blocks = list(unwrap(model).model.visual.blocks.parameters())
    assert not any(weight.requires_grad for weight in blocks)
    for name, weight in model.named_parameters():
        assert weight.requires_grad == (weight.grad is not None), name
        assert weight.dtype == (torch.float32 if weight.requires_grad else torch.bfloat16), name
    full = trainable(tiny.own_model(target.start, toy.store).model, None, RECIPE.precision)
    frozen = {name for name, weight in full.named_parameters() if not weight.requires_grad}
    assert frozen
    assert all("visual" in name and "visual.merger" not in name for name in frozen)


def test_a_fit_ends_well_and_is_merged(toy: Toy, target):
    target = dataclasses.replace(target, subset=toy.subset(rows=11))  # two steps
    place = toy.store.get(target)
    assert np.isfinite([row["loss"] for row in losses(place)]).all()
    before = tiny.shared_model(target.start, toy.store).model.state_dict()
    after = target.load(toy.store).model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("merger" in name for name in moved)
    assert not any("visual.blocks" in name for name in moved)
    assert sum("q_proj" in name for name in moved) == 3


@pytest.mark.parametrize("kind", ["qwen2_5_vl"], indirect=True)
def test_an_instruction_tuned_start_has_to_be_told(toy: Toy, target, compose):
    with pytest.raises(ValueError, match=r"target\.from_tuned=true"):
        toy.store.get(dataclasses.replace(target, from_tuned=False))
    assert build(compose("target=qwen25_vl_3b").target).from_tuned is True


def test_it_is_built_at_full_size_without_weights(compose):
    model = unbuilt(FULL_SIZE["qwen25_vl_3b"]())
    whole = {id(weight): weight.numel() for weight in model.parameters()}
    assert sum(whole.values()) == 3_754_622_976  # hub
    shape = build(compose("target=qwen25_vl_3b").target).start.shape()
    assert shape.parameters == pytest.approx(3_754_622_976, rel=0.01)
    assert shape.image_tokens == 17 * 23
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


@pytest.mark.parametrize("kind", ["qwen2_5_vl"], indirect=True)
def test_random_weights_are_estimated_and_built_without_any_file(
    toy: Toy, start, tmp_path, compose
):
    cfg = compose("target=qwen25_vl_3b", "target.weights=random", "hardware=h200")
    assert isinstance(build(cfg.estimate), Estimate)
    assert "random weights" in build(cfg.estimate).make(build(cfg.store))
    random = dataclasses.replace(
        start, drawn=toy.tokenizer, images={"patch_size": 4, "min_pixels": 64, "max_pixels": 4000}
    )
    parts = load(toy.store.get(random))
    assert parts.model.config.model_type == "qwen2_5_vl"
    assert len(parts.layout.tokens((16, 16))) == 6


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("qwen3_vl_8b", "starts from Qwen/Qwen3-VL-8B-Instruct, tuned on instructions already"),
        ("qwen3_vl_tiny", "random weights of the shape of Qwen/Qwen3-VL-2B-Instruct"),
        ("llava15_7b", None),
    ],
)
def test_the_table_says_that_a_start_was_tuned_or_is_random(compose, name, note):
    target = describe(build(compose(f"target={name}").target))
    notes = list(about_starts([target, target]))
    assert len(notes) == (note is not None)
    assert all(note in text for text in notes)
