"""The real proxies: their sizes, and a fit and a scan of each kind on the toy's pool."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import tiny
import torch
from toy import HARDWARE, RECIPE, TEXT_ONLY, Toy, declared, losses, recorded
from transformers import AutoConfig, AutoModelForCausalLM, CLIPModel

from xmas.attention.metric import Spectra
from xmas.cli.config import build
from xmas.data.pool import Pool
from xmas.features.trajectories import Measuring, Trajectories
from xmas.models.assembled import Assembled
from xmas.models.families import FAMILIES, family_of
from xmas.models.families.idefics3 import TiledImages
from xmas.models.families.llava_next import anyres
from xmas.models.published import Published
from xmas.models.sources import Source
from xmas.models.specs import FULL_SIZE, unbuilt
from xmas.models.start_point import StartPoint
from xmas.models.vlm import language_model, load, unwrap
from xmas.store import Store, describe, key, sha256_of, volatile
from xmas.training.proxy import Proxy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tiny")


FIRST = 19  # rows: all pictures, rows of text alone, of several turns, and one the model begins


@pytest.fixture(scope="module")
def pool(toy: Toy, folder) -> Pool:
    """The first rows of the toy's pool."""
    records = json.loads(Path(toy.pool.annotations).read_text())[:FIRST]
    (folder / "first.json").write_text(json.dumps(records))
    return Pool(str(folder / "first.json"), toy.pool.images)


def proxy(pool: Pool, kind: str, folder) -> Proxy:
    return Proxy(
        pool,
        tiny.start(kind, folder / kind),
        RECIPE,
        tiny.TEMPLATES.get(kind, tiny.PHI),
        snapshots=2,
        cache_vision=False,
        max_length=1024,
        hardware=HARDWARE,
    )


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_fit_and_its_scans_end_well(toy: Toy, pool: Pool, folder, kind):
    fitted = proxy(pool, kind, folder)
    trajectories = Trajectories(fitted, Spectra(batch_tokens=600))
    place = toy.store.get(trajectories)
    for computed in (trajectories, fitted, fitted.start, fitted.tokens()):
        assert recorded(toy.store, computed) == declared(computed)
    values, curve = np.load(place / "values.npy"), losses(toy.store.get(fitted))
    texts = [row for row in TEXT_ONLY if row < FIRST]
    images = np.setdiff1d(np.arange(FIRST), texts)
    assert values.shape == (FIRST, 2, 5)
    assert np.isfinite(values[images]).all()
    assert (values[images][:, :, 0] > 0).all()
    assert np.isnan(values[texts]).all()
    assert not np.allclose(values[images][:, 0], values[images][:, 1], rtol=1e-3)
    assert len(curve) == 3
    assert all(math.isfinite(step["loss"]) for step in curve)
    assert curve[-1]["loss"] < curve[0]["loss"]
    before = load(toy.store.get(fitted.start)).model.state_dict()
    after = fitted.load(toy.store, fitted.steps(toy.store)[-1]).model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any("vision_tower" in name or "vision_model" in name for name in moved)
    assert any("layers.0" in name for name in moved)
    assert any("projector" in name or "connector" in name for name in moved)
    assert ("model.image_newline" in moved) == (kind == "onevision")


@pytest.mark.parametrize(
    ("name", "whole", "language", "tower"),
    [
        ("tinyllava_stablelm", 1_954_318_336, 1_644_515_328, 303_507_456),  # 1.644 B: release
        ("llava_onevision_05b", 893_675_552, 494_090_112, 397_747_744),  # 1.79 GB in 16 bits: hub
        ("smolvlm_256m", 256_484_928, 162_974_016, 86_433_024),  # 256 M: hub
        ("smolvlm2_500m", 507_482_304, 409_252_800, 86_433_024),  # 507 M: hub
        ("internvl35_1b", 1_060_897_792, 751_632_384, 304_012_288),  # stored in the hub's folder
    ],
)
def test_each_proxy_is_built_at_full_size_without_weights(name, whole, language, tower):
    model = unbuilt(FULL_SIZE[name]())
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    assert sum(weight.numel() for weight in model.parameters()) == whole
    inside = {id(weight): weight for weight in language_model(model).parameters()}
    inside |= {
        id(weight): weight for weight in model.lm_head.parameters()
    }  # once, where it is tied
    assert sum(weight.numel() for weight in inside.values()) == language
    vision = unwrap(model).get_submodule(family_of(model.config).tower)
    assert sum(weight.numel() for weight in vision.parameters()) == tower


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        (["proxy=tinyllava_stablelm"], "bfloat16"),  # as its fit multiplies
        (["proxy=smolvlm_256m", "proxy.recipe.precision=16-mixed"], "float16"),
        (["proxy=llava_onevision_05b", "features.trajectories.running.weights=float32"], "float32"),
        ([], "float32"),
    ],
    ids=str,
)
def test_a_proxy_is_measured_in_the_precision_of_its_fit(options, weights, compose):
    assert build(compose(*options).features.trajectories).weights == weights


def test_a_scan_runs_in_the_precision_it_is_measured_in(toy: Toy, tmp_path):
    recipe = dataclasses.replace(RECIPE, precision="bf16-mixed")
    halved = dataclasses.replace(toy.proxy, recipe=recipe)
    model = load(toy.store.get(toy.start)).model
    for fitted, precision in ((toy.proxy, torch.float32), (halved, torch.bfloat16)):
        stage = dataclasses.replace(toy.trajectories, proxy=fitted)
        assert Measuring(stage, toy.store, tmp_path).scan(model).precision == precision


def test_full_size_images_have_the_published_numbers_of_tokens():
    tokenizer = tiny.tokenizer()
    config = FULL_SIZE["tinyllava_stablelm"]()
    assert len(FAMILIES["llava"].layout(config, None, tokenizer).tokens(None)) == 576
    grids = anyres(FULL_SIZE["llava_onevision_05b"]())
    assert (grids.tile, grids.side, grids.most) == (384, 27, 9)
    assert grids.grid((384, 384)) == (1, 1)
    assert len(grids.tokens((384, 384))) == 729 + 27 * 28
    assert len(grids.tokens((2304, 2304))) == 729 + 81 * 82  # the most: interpolated to nine tiles
    own = SimpleNamespace(
        max_image_size={"longest_edge": 512},
        size={"longest_edge": 2048},
        do_resize=True,
        do_image_splitting=True,
    )
    tiles = FAMILIES["idefics3"].layout(FULL_SIZE["smolvlm_256m"](), TiledImages(own), tokenizer)
    assert tiles.grid((480, 640)) == (3, 4)
    assert sum(tiles.tokens((480, 640)) == -1) == 13 * 64
    assert sum(tiles.tokens((500, 500)) == -1) == 17 * 64


def test_the_release_s_recipe_and_start(compose):
    """XMAS release, `train_stablelm.sh`."""
    proxy = build(compose("proxy=tinyllava_stablelm").proxy)
    assert isinstance(proxy.start, Assembled)
    assert proxy.start.language.name == "stabilityai/stablelm-2-zephyr-1_6b"
    assert proxy.start.vision.name == "openai/clip-vit-large-patch14-336"
    assert (proxy.start.feature_layer, proxy.start.aspect) == (-2, "crop")
    recipe = proxy.recipe
    assert (recipe.rate, recipe.projector_rate, recipe.weight_decay) == (2e-5, 2e-5, 0)
    assert (recipe.batch, recipe.micro_batch, recipe.epochs, recipe.warmup) == (32, 8, 1, 0.03)
    assert recipe.steps(665_298) == 20_791
    assert proxy.max_length == 2048
    changed = compose("proxy=tinyllava_stablelm", "proxy.start.language.name=/else")
    assert build(changed.proxy).start.language == Source("/else")


@pytest.mark.parametrize("name", ["tinyllava_stablelm", "llava_onevision_05b", "smolvlm_256m"])
def test_a_proxy_brings_its_start_point_and_leaves_the_target_s(name, compose):
    cfg = compose(f"proxy={name}")
    assert isinstance(build(cfg.proxy).start, Assembled | Published)
    assert cfg.start._target_ == compose().start._target_
    assert len(key(build(cfg.features.trajectories))) == 12


def test_a_source_is_known_by_its_files_or_by_its_name_and_revision(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    local = Source(str(tmp_path))
    assert describe(local) == {"sha256": sha256_of(tmp_path)}
    assert local.folder() == tmp_path
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert describe(Source(str(tmp_path))) == {"sha256": sha256_of(tmp_path)}
    assert describe(Source("some/model")) == {"hub": "some/model", "revision": None}
    assert describe(Source("some/model", "abc")) != describe(Source("some/model"))


def test_an_assembled_model_holds_both_models_and_a_random_connector(toy: Toy, tmp_path):
    start = tiny.start("qwen2", tmp_path)
    assert isinstance(start, Assembled)
    parts = load(toy.store.get(start))
    language = AutoModelForCausalLM.from_pretrained(tmp_path / "language").state_dict()
    tower = CLIPModel.from_pretrained(tmp_path / "tower").vision_model.state_dict()
    rows = len(tiny.tokenizer())
    for name, weight in language.items():
        place = name if name.startswith("lm_head") else f"model.language_{name}"
        assembled_weight = parts.model.state_dict()[place]
        assert torch.equal(
            assembled_weight[: len(weight)] if len(weight) == rows else assembled_weight, weight
        ), name
    for name, weight in tower.items():
        assert torch.equal(parts.model.state_dict()[f"model.vision_tower.{name}"], weight), name
    assert len(language) > 20
    assert len(tower) > 20
    connector = parts.model.model.multi_modal_projector.requires_grad_(False)
    assert connector.linear_1.weight.std() == pytest.approx(0.02, rel=0.1)
    assert not connector.linear_1.bias.any()
    assert parts.model.config.image_token_id == rows
    added = parts.model.get_input_embeddings().weight[rows:]
    assert len(added) > 0
    assert not added.any()
    assert parts.model.get_output_embeddings().weight is parts.model.get_input_embeddings().weight
    assert parts.tokenizer.pad_token_id == parts.tokenizer.eos_token_id
    assert parts.processor.aspect == "crop"
    reseeded = load(toy.store.get(dataclasses.replace(start, seed=1)))
    changed = reseeded.model.model.multi_modal_projector.linear_1.weight
    assert not torch.equal(changed, connector.linear_1.weight)


def test_language_models_and_towers_that_do_not_fit_are_refused(toy: Toy, tmp_path):
    start = tiny.start("stablelm", tmp_path)
    tokenizer = tiny.tokenizer()
    phi = tmp_path / "phi"
    tiny.language("phi", len(tokenizer)).save_pretrained(phi)
    tokenizer.save_pretrained(phi)
    with pytest.raises(ValueError, match="no place for this one's bias"):
        toy.store.get(dataclasses.replace(start, language=Source(str(phi))))
    with pytest.raises(ValueError, match="not a CLIP"):
        toy.store.get(dataclasses.replace(start, vision=start.language))


def test_published_models_may_see_less_of_an_image(toy: Toy, tmp_path):
    start = tiny.start("onevision", tmp_path / "onevision")
    grids = {"image_grid_pinpoints": [[21, 21]]}
    less = dataclasses.replace(start, config=grids, images=grids)
    assert len(less.layout(toy.store).tokens((101, 103))) == 9 + 3 * 4
    assert len(start.layout(toy.store).tokens((101, 103))) > 9 + 3 * 4
    with pytest.raises(ValueError, match=r"image_grid_pinpoints of .* have to agree"):
        toy.store.get(dataclasses.replace(start, images=grids))
    start = tiny.start("smolvlm", tmp_path / "smolvlm")
    fewer = dataclasses.replace(start, images={"size": {"longest_edge": 48}})
    assert fewer.layout(toy.store).grid((100, 100)) == (2, 2)
    with pytest.raises(ValueError, match=r"max_image_size of .* have to agree"):
        toy.store.get(dataclasses.replace(start, images={"max_image_size": {"longest_edge": 36}}))


@dataclasses.dataclass(frozen=True)
class Copied(StartPoint):
    """A start point that is made of another, which is no part of its key."""

    kind: ClassVar[str] = "copied"

    of: StartPoint = volatile()

    def compute(self, store: Store, out: Path) -> None:
        ignored = shutil.ignore_patterns("meta.json")
        shutil.copytree(store.get(self.of), out, ignore=ignored, dirs_exist_ok=True)


def test_a_start_point_that_is_made_anew_is_seen_anew(toy: Toy, tmp_path, monkeypatch):
    start = tiny.start("smolvlm", tmp_path / "smolvlm")
    fewer = dataclasses.replace(start, images={"size": {"longest_edge": 48}})
    former = Copied(start).layout(toy.store).tokens((101, 103))
    monkeypatch.delenv("XMAS_STARTED", raising=False)
    anew = Store(toy.store.root, force="copied")
    assert len(Copied(fewer).layout(anew).tokens((101, 103))) < len(former)


def test_a_model_of_no_family_and_a_llava_without_its_images_are_refused(toy: Toy, tmp_path):
    AutoConfig.for_model("blip-2").save_pretrained(tmp_path / "blip")
    with pytest.raises(TypeError, match="models of type blip-2 are not among"):
        toy.store.get(Published(Source(str(tmp_path / "blip"))))
    start = tiny.start("phi", tmp_path / "phi")
    (tmp_path / "phi" / "images.json").unlink()
    with pytest.raises(ValueError, match=r"has no images\.json"):
        toy.store.get(start)
