"""Models that no file describes: what is found of them, what is refused, and the whole way.

`test_every_family.py` compares what is computed for them with transformers.
"""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import own_model, seeded, shared_start
from tiny_undescribed import AYA_MARKS, UNDESCRIBED, tokenizer
from toy import Toy, record
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, PaliGemmaConfig

from xmas.attention.capture import attention_of
from xmas.attention.metric import Spectra
from xmas.cli.config import build
from xmas.data.pool import Pool
from xmas.evaluation.generation.prefill import check_cached
from xmas.models.chat.batches import collate
from xmas.models.chat.tokens import Tokenised
from xmas.models.families.undescribed import parts_of
from xmas.models.own_processor import OwnProcessor, own_processor
from xmas.models.vision_cache import FromFiles, features_of
from xmas.models.vlm import freeze_tower, hidden_states

ROWS = (0, 2, 3, 5, 8)  # of the toy's first nine: pictures of different sizes, and none


@pytest.mark.parametrize(
    ("kind", "tower", "language", "connector"),
    [
        ("ovis2", "vision_tower", "language_model", ["visual_embeddings_table"]),
        ("janus", "vision_model", "language_model", ["aligner"]),
        ("idefics3", "vision_model", "text_model", ["connector"]),
        (
            "llava_next",
            "vision_tower",
            "language_model",
            ["image_newline", "multi_modal_projector"],
        ),
        (
            "qwen3_vl",
            "visual",
            "language_model",
            ["merger", *(f"deepstack_merger_list.{number}" for number in range(3))],
        ),
    ],
)
def test_the_parts_of_a_class_are_found_by_their_names(kind, tower, language, connector):
    parts = parts_of(AutoConfig.for_model(kind))
    assert (parts.tower, parts.language) == (f"model.{tower}", f"model.{language}")
    assert list(parts.connector) == connector


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("mllama", "sees images by MllamaCrossAttentionDecoderLayer, not as tokens"),
        ("florence2", "an encoder for the question and a decoder for the answer"),
        ("kosmos-2", "has no image_token_id"),
        ("qwen3_5", "Qwen3_5TextModel of a qwen3_5 does not take its attention by"),
        ("fuyu", "has no vision tower next to its language model"),
        ("llama", "is no AutoModelForImageTextToText"),
    ],
)
def test_a_model_that_cannot_run_whole_is_refused_with_the_reason(kind, reason):
    with pytest.raises(TypeError, match=reason):
        parts_of(AutoConfig.for_model(kind))


@pytest.fixture(scope="module", params=sorted(UNDESCRIBED))
def model(request, toy: Toy, tmp_path_factory) -> SimpleNamespace:
    """A tiny model of such a class, and batches of the toy's rows."""
    family = UNDESCRIBED[request.param]
    start = shared_start(family.write, tmp_path_factory)
    folder, parts = Path(start.source.name), own_model(start, toy.store)
    place = tmp_path_factory.mktemp("few") / "pool.json"
    place.write_text(json.dumps([record(row) for row in range(9)]))
    pool = Pool(str(place), str(toy.folder / "images"))
    tokens = Tokenised(pool, start.tokenizer, family.template, start.image, 1024)
    table, rows = tokens.open(toy.store), pool.open(toy.store)
    pictures = FromFiles(rows, parts.processor)

    def batch(*of: int):
        return collate(
            of, [table[row] for row in of], image_token=parts.model.config.image_token_id,
            pad=parts.tokenizer.pad_token_id, pictures=pictures,
        )  # fmt: skip

    return SimpleNamespace(kind=request.param, folder=folder, start=start, parts=parts, batch=batch)


@torch.no_grad()
def test_a_row_has_the_same_states_alone_and_in_a_batch(model):
    batch = model.batch(*ROWS)
    assert len({*batch.mask.sum(dim=1).tolist()}) > 2
    together = hidden_states(
        model.parts.model, batch.ids, batch.mask, features_of(model.parts.model, batch)
    )
    for line, row in enumerate(ROWS):
        one = model.batch(row)
        alone = hidden_states(
            model.parts.model, one.ids, one.mask, features_of(model.parts.model, one)
        )
        torch.testing.assert_close(together[line, : alone.shape[1]], alone[0], rtol=1e-4, atol=1e-4)


def test_without_an_image_the_connector_has_gradients_of_zero(model):
    net = model.parts.model
    freeze_tower(net)
    batch = model.batch(3)
    hidden_states(net, batch.ids, batch.mask, features_of(net, batch)).sum().backward()
    gradients = [weight.grad for name, weight in net.named_parameters() if weight.requires_grad
                 and "lm_head" not in name]  # fmt: skip
    assert all(gradient is not None for gradient in gradients)
    connector = parts_of(net.config).connector[0]
    inside = [weight for name, weight in net.named_parameters() if f".{connector}." in name]
    assert inside
    assert not any(weight.grad.any() for weight in inside)
    net.zero_grad(set_to_none=True)


def test_packed_rows_are_refused(model):
    batch = model.batch(3)
    with pytest.raises(ValueError, match=f"{model.kind}, which run whole, .* hardware.packing=fal"):
        hidden_states(model.parts.model, batch.ids, batch.mask, None, lengths=torch.tensor([9, 5]))


def test_the_shape_is_counted(model):
    net, shape = model.parts.model, model.start.shape()
    assert shape.whole
    assert shape.parameters == sum(weight.numel() for weight in net.parameters())
    language = net.model.language_model.layers
    linear = sum(weight.numel() for weight in language.parameters() if weight.dim() > 1)
    assert shape.decoder.linear == pytest.approx(linear, rel=0.05)  # a whole width
    image = model.parts.layout.tokens((480, 640))
    assert shape.image_tokens == len(image)
    pixels = model.parts.processor.pictures([Image.new("RGB", (640, 480))])["pixel_values"]
    seen = {"aya_vision": len(pixels) * 36, "glm4v": len(pixels)}[model.kind]  # patches
    assert shape.tiles * shape.tower.patches == seen


def test_the_log_says_which_way_a_model_runs(toy: Toy, model, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "xmas.models.published"):
        model.start.compute(toy.store, tmp_path)
    assert f"nobody described models of type {model.kind}" in caplog.text
    assert "the tower again for every row and snapshot" in caplog.text


def test_a_video_processor_without_torchvision_keeps_its_settings(tmp_path):
    folder, copy = tmp_path / "glm4v", tmp_path / "copy"
    seeded(UNDESCRIBED["glm4v"].write)(folder)
    settings = {"size": {"shortest_edge": 112}, "video_processor_type": "Glm4vVideoProcessor"}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(settings))
    processor = own_processor(folder)
    assert len(processor.pictures([Image.new("RGB", (24, 16))])["image_grid_thw"]) == 1
    copy.mkdir()
    processor.save(copy)
    assert json.loads((copy / "processor_config.json").read_text())["video_processor"] == settings


def test_a_processor_that_needs_torchvision_names_the_extra(tmp_path):
    AutoConfig.for_model("mistral3").save_pretrained(tmp_path)
    tokenizer(AYA_MARKS, "<image>").save_pretrained(tmp_path)
    with pytest.raises(ImportError, match=r"mistral3 needs torchvision.*pip install 'xmas\[torch"):
        own_processor(tmp_path)


def test_types_of_tokens_that_depend_on_the_answer_are_refused():
    """PaliGemma's are 0 where attention goes both ways: up to the answer."""
    eos, image = 0, 7

    def own(**inputs):
        return {"input_ids": [[eos, 5, image, image, eos]], "token_type_ids": [[0] * 5]}

    own.tokenizer = SimpleNamespace(eos_token="<eos>", eos_token_id=eos)
    own.image_token, own.chat_template = "<image>", None
    processor = OwnProcessor(own)
    assert processor.tokens([(8, 8)], image)[0].tolist() == [5, image, image]
    with pytest.raises(ValueError, match=r"token_type_ids .* where the answer starts"):
        processor.tokens([(8, 8)], image, ["token_type_ids"])


@torch.no_grad()
def test_logits_are_those_of_the_model_s_own_forward():
    """Of a head that caps them: PaliGemma with a Gemma 2."""
    config = PaliGemmaConfig(
        text_config={
            "model_type": "gemma2", "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 12, "final_logit_softcapping": 0.5, "initializer_range": 0.5,
        },
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 40,
            "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 24, "patch_size": 8,
        },
        projection_dim=24, image_token_index=60,
    )  # fmt: skip
    torch.manual_seed(1)
    net, parts = AutoModelForImageTextToText.from_config(config).eval(), parts_of(config)
    ids = torch.arange(1, 8)[None]
    arguments = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}
    hidden = net.model(**arguments).last_hidden_state[0]
    logits = parts.logits(net, hidden)
    torch.testing.assert_close(logits, net(**arguments).logits[0])
    assert not torch.allclose(logits, net.lm_head(hidden), atol=0.1)


def test_by_its_name_alone_it_goes_from_proxy_to_scores(toy: Toy, model, compose, caplog, tmp_path):
    """Proxy fit, trajectories, subset, target by LoRA and scores, from configs as they are."""
    if model.kind != "glm4v":
        pytest.skip("experiments/extraction/README.md has the other: a pass takes seconds")
    (tmp_path / "pool.json").write_text(json.dumps([record(row) for row in range(23)]))
    own = [one for one in toy.overrides() if not one.startswith(("proxy=", "target=", "suite="))]
    names = [f"{group}.model={model.folder}" for group in ("proxy", "target")]
    cfg = compose(
        *own, "proxy=auto", "target=auto", *names, "suite=heldout", "pool.hold_out.share=0.3",
        "selector=xmas", "subset.fraction=0.5", "reference.base=true", "proxy.snapshots=2",
        "proxy.recipe.precision=32-true", "proxy.max_length=512", "target.max_length=512",
        f"pool.annotations={tmp_path / 'pool.json'}", "clusters.trajectories.k=2",
    )  # fmt: skip
    scores = build(cfg.scores)
    with caplog.at_level(logging.INFO, "xmas.training.fit.trainer"):
        folder = toy.store.get(scores)
    assert cfg.hardware.packing
    assert "rows run whole, padded and not packed" in caplog.text
    trajectories = np.load(toy.store.get(build(cfg.features.trajectories)) / "values.npy")
    assert trajectories.shape[1:] == (2, 5)
    with_image = build(cfg.features.trajectories).proxy.pool.open(toy.store).has_image
    assert (~np.isnan(trajectories).any(axis=(1, 2)) == with_image).all()
    assert with_image.sum() > 10
    assert scores.target.from_tuned
    assert (toy.store.get(scores.target) / "adapter" / "adapter_model.safetensors").exists()
    lines = json.loads((folder / "scores.json").read_text())
    assert lines


@torch.no_grad()
def test_of_layers_that_convolve_none_is_read_and_no_answer_is_asked():
    """Lfm2's: attention of those that attend is that of eager; answers need another cache."""
    config = AutoConfig.for_model(
        "lfm2", vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2,
        layer_types=["conv", "full_attention", "conv", "full_attention"],
    )  # fmt: skip
    torch.manual_seed(1)
    net = AutoModel.from_config(config).eval()
    spectra, ids = Spectra(), torch.arange(1, 12)[None]
    image, text = torch.arange(2, 6)[None], torch.arange(6, 11)[None]
    every = torch.ones_like(text, dtype=torch.bool)
    collector = spectra.collector(net, text=text, text_mask=every, image=image)
    with attention_of(net, collector):
        net(input_ids=ids, use_cache=False)
    assert collector.seen == [1, 3]
    net.set_attn_implementation("eager")
    layers = net(input_ids=ids, use_cache=False, output_attentions=True).attentions
    maps = [layer.mean(dim=1) for layer in layers if layer is not None]
    torch.testing.assert_close(collector.total, torch.stack(maps).sum(dim=0)[:, 6:, 2:6])
    with pytest.raises(ValueError, match=r"other states than keys and values \(conv\).*endpoint"):
        check_cached(config)
