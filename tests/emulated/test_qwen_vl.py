"""Qwen-VL on a GPU: positions, deep features and shared prefixes, where the model is."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_every_family import answers
from test_several_images import ROWS, pool_in
from tiny import seeded
from tiny_families import TINY
from toy import Toy

from emulated.gpu import Gpu
from xmas.attention.engine import Running, Scan
from xmas.attention.feed import Material
from xmas.attention.metric import Spectra
from xmas.models.answer_loss import answer_loss
from xmas.models.chat.batches import Batch, Loader
from xmas.models.chat.packing import pack
from xmas.models.chat.tokens import Tokenised
from xmas.models.vision_cache import FromFiles, features_of
from xmas.models.vlm import LoadedModel, load
from xmas.training.fit.recipe import Hardware
from xmas.training.fit.speed import configured


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def family(request, toy: Toy, tmp_path_factory) -> SimpleNamespace:
    """A tiny model's start point, and rows of several images for it."""
    tiny = TINY[request.param]
    start = seeded(tiny.write)(tmp_path_factory.mktemp("qwen"))
    pool = pool_in(tmp_path_factory.mktemp("several"), toy)
    parts = load(toy.store.get(start))
    table = Tokenised(pool, start.tokenizer, tiny.template, start.image, 1024).open(toy.store)
    shown = pool.open(toy.store).shown
    pictures = FromFiles(pool.open(toy.store), parts.processor)
    material = Material(table, pictures, shown, parts.tokenizer.pad_token_id)
    return SimpleNamespace(tiny=tiny, start=start, material=material, rows=toy.pool.open(toy.store))


def loaded(toy: Toy, family: SimpleNamespace, device: str) -> LoadedModel:
    parts = load(toy.store.get(family.start))
    parts.model.to(device)
    return parts


@pytest.mark.parametrize("shared_from", [0.0, 1.0])
def test_a_scan_gives_the_values_of_a_cpu(toy: Toy, gpu: Gpu, family, shared_from):
    """The host waits once a pass of the tower, for sizes; for positions never. What is added inside
    the language model makes it wait in transformers.
    """
    spectra, running = Spectra(batch_tokens=600), Running(shared_from=shared_from)
    passes: list[str] = []

    def values(device: str) -> np.ndarray:
        model = loaded(toy, family, device).model
        model.model.visual.register_forward_pre_hook(lambda *_: passes.append(device))
        return Scan(model, family.material, spectra, running).once("test")

    with gpu.counting() as counted:
        on_gpu = values("cuda")
    np.testing.assert_allclose(on_gpu, values("cpu"), rtol=2e-3, atol=1e-5)
    waits = Counter(place.split(":")[0] for place in counted.places.elements())
    assert waits["qwen_vl.py"] == passes.count("cuda") > 3
    assert not waits["vlm.py"]
    assert bool(waits["language_inputs.py"]) == (family.tiny.write is TINY["qwen3_vl"].write)


@pytest.mark.parametrize("packed", [False, True])
def test_a_loss_is_that_of_a_cpu(toy: Toy, gpu: Gpu, family, packed):
    parts = loaded(toy, family, "cpu")
    loader = Loader(
        family.material.table,
        [np.arange(len(ROWS))],
        image_token=parts.model.config.image_token_id,
        pad=family.material.pad,
        pictures=family.material.pictures,
    )
    whole = next(iter(loader))

    def loss(device: str) -> float:
        model = loaded(toy, family, device).model
        batch: Batch = (pack(whole) if packed else whole).to(torch.device(device))
        with configured(model, Hardware(packing=packed)):
            value = answer_loss(
                model, batch.ids, batch.mask, batch.labels, features_of(model, batch),
                sizes=batch.pictures["sizes"], lengths=batch.lengths,
            )  # fmt: skip
            value.backward()
        return value.item()

    assert loss("cuda") == pytest.approx(loss("cpu"), rel=1e-4)


def test_answers_are_those_of_a_cpu(toy: Toy, gpu: Gpu, family, tmp_path):
    on_cpu = answers(family, loaded(toy, family, "cpu"), 3, tmp_path / "cpu.jsonl")
    on_gpu = loaded(toy, family, "cuda")
    for batch in (1, 3):
        assert answers(family, on_gpu, batch, tmp_path / f"{batch}.jsonl") == on_cpu
