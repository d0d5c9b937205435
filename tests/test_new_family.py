"""A family in one file: from its start point to an exported folder, with nothing else changed."""

import sys
from types import ModuleType

import numpy as np
import pytest
import tiny
import torch
from pages import DOCS, files_of
from test_export import RECIPE
from toy import HARDWARE, Toy
from transformers import (
    AutoProcessor,
    Blip2Config,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from xmas.data.images.pixels import SquareImages
from xmas.models import families
from xmas.models.answer_loss import answer_loss
from xmas.models.chat.batches import Batch, Loader
from xmas.models.chat.labels import IGNORED
from xmas.models.chat.template import Template
from xmas.models.published import Published
from xmas.models.sources import Source
from xmas.models.vision_cache import features_of
from xmas.models.vlm import LoadedModel, load
from xmas.target.export import Export
from xmas.target.target import Target
from xmas.training.fit.trainables import Lora

(FILE,) = (  # the worked example
    text
    for file, text in files_of(DOCS / "add-a-model-family.md").items()
    if file.endswith("/vip_llava.py")
)
PATCHES, LAYERS = 9, [-2, 1]


@pytest.fixture(params=["file", "entry point"])
def place(request, tmp_path, monkeypatch) -> None:
    """The file in the folder of families; or in an installed package, with an entry point."""
    code = tmp_path / "code"
    code.mkdir()
    if request.param == "file":
        (code / "vip_llava.py").write_text(FILE)
        monkeypatch.setattr(families, "__path__", [*families.__path__, str(code)])
        monkeypatch.delitem(sys.modules, "xmas.models.families.vip_llava", raising=False)
        return
    (code / "somebodys_vip_llava.py").write_text(FILE)
    package = code / "somebodys-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    entry = "[xmas.families]\nvip_llava = somebodys_vip_llava\n"
    (package / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(code)


def test_a_new_file_is_found_without_a_list(place):
    discovered = families.families()
    assert set(discovered) == {*families.FAMILIES, "vipllava"}
    assert isinstance(discovered["vipllava"], families.Family)
    assert isinstance(discovered["vipllava"], families.Exportable)


def test_a_family_that_two_modules_define_is_refused(monkeypatch):
    twice = ModuleType("somebodys_llava")
    twice.FAMILIES = (families.FAMILIES["llava"],)  # type: ignore[attr-defined]
    modules = [*families._modules(), twice]
    monkeypatch.setattr(families, "_modules", lambda: iter(modules))
    match = r"xmas\.models\.families\.llava and somebodys_llava both define the family llava"
    with pytest.raises(ValueError, match=match):
        families.families()


def test_a_model_without_a_family_that_cannot_run_whole_is_refused_and_told_how_to_add_one():
    match = r"no image_token_id: .*blip-2 are not among .*xmas/models/families"
    with pytest.raises(TypeError, match=match):
        families.family_of(Blip2Config())


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Published:
    """A folder as the hub would have it: two layers of a tower of 3 x 3 patches, a Llama."""
    folder = tmp_path_factory.mktemp("vip")
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = tiny.END
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        text = tiny.language_config("llama", len(tokenizer) + 2)
        config = VipLlavaConfig(
            text_config=text,
            vision_config=tiny.clip_config().vision_config,
            vision_feature_layer=LAYERS,
            vision_feature_layers=LAYERS,  # its name until transformers 5.17
            image_token_index=len(tokenizer),
            image_seq_length=PATCHES,
        )
        model = VipLlavaForConditionalGeneration(config)
    LoadedModel(model, tokenizer, SquareImages(21, "pad")).save(folder)
    return Published(Source(str(folder)))


def test_a_family_in_one_file_goes_from_start_to_export(toy: Toy, start, place, monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", families.families())

    # labels: the answers' tokens, none of the image's
    target = Target(
        toy.subset(), start, RECIPE, Lora(4, 8), Template(), hardware=HARDWARE, from_tuned=True
    )
    table = target.tokens().open(toy.store)
    row = int(np.flatnonzero(table.image_at >= 0)[0])
    assert len(table[row].image) == PATCHES
    loaded = load(toy.store.get(start))
    batch = batch_of(toy, target, loaded, row)
    answer = loaded.tokenizer.decode(batch.labels[batch.labels != IGNORED])
    turns = toy.pool.open(toy.store).conversation(row)
    assert answer == "".join(f" {reply}</s>" for _, reply in turns)

    # the image step: features, connector and loss are transformers' own
    with torch.no_grad():
        own = loaded.model(
            input_ids=batch.ids, attention_mask=batch.mask.long(), labels=batch.labels,
            pixel_values=batch.pictures["pixels"],
        )  # fmt: skip
        torch.testing.assert_close(loss_of(loaded, batch), own.loss)

    # its size before anything is loaded
    parameters = sum(weight.numel() for weight in loaded.model.parameters())
    shape = families.family_of(loaded.model.config).shape(loaded.model.config)
    assert shape.parameters == pytest.approx(parameters, rel=0.02)  # biases, a norm

    # LoRA: on the language model's layers alone; the connector trains with it
    before = loss_of(load(toy.store.get(start)), batch)
    fitted = target.load(toy.store)
    with torch.no_grad():
        assert loss_of(fitted, batch) < before
    names = {name for name, weight in loaded.model.named_parameters()
             if not torch.equal(weight, fitted.model.get_parameter(name))}  # fmt: skip
    assert names
    assert all(".language_model.layers." in name or "projector" in name for name in names)

    # export: plain transformers loads it, and computes the same
    folder = toy.store.get(Export(target, dtype="float32"))
    plain, report = VipLlavaForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(report.values()), report
    AutoProcessor.from_pretrained(folder)
    for name, weight in plain.named_parameters():
        assert torch.equal(weight, fitted.model.get_parameter(name)), name


def batch_of(toy: Toy, target: Target, loaded: LoadedModel, row: int) -> Batch:
    loader = Loader(
        target.tokens().open(toy.store),
        [np.array([row])],
        image_token=loaded.model.config.image_token_id,
        pad=loaded.tokenizer.pad_token_id,
        pictures=target.pictures(toy.store, loaded),
    )
    return next(iter(loader))


def loss_of(loaded: LoadedModel, batch: Batch) -> torch.Tensor:
    features = features_of(loaded.model, batch)
    return answer_loss(loaded.model, batch.ids, batch.mask, batch.labels, features)
