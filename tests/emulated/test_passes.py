"""Passes over a pool: on the device of the hardware setting, each rank on its own card."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toy import HARDWARE, Toy

from emulated.gpu import Gpu
from xmas.features.activations import Activations
from xmas.features.answer_layers import AnswerLayers
from xmas.features.clip.clip import ClipEmbeddings
from xmas.features.clustering.assigner import Assigner
from xmas.features.clustering.spherical import Spherical
from xmas.features.last_layer import LastLayer
from xmas.features.losses.answer_scorer import ScorerSettings
from xmas.features.losses.answers import Answers
from xmas.features.shallow import Shallow
from xmas.models.device import device_for
from xmas.store import Stage
from xmas.store.progress import bar
from xmas.training.starts.unfitted import Unfitted

GPU = dataclasses.replace(HARDWARE, accelerator="gpu")
SETTINGS = ScorerSettings(batch_tokens=512, shard_rows=11)
PASSES: dict[str, Callable] = {
    "activations": lambda toy, proxy: Activations(proxy, 0, (0, 1), batch_tokens=512),
    "last_layer": lambda toy, proxy: LastLayer(proxy, 0, batch_tokens=512),
    "shallow": lambda toy, proxy: Shallow(unfitted(toy, proxy), layer=2, batch_tokens=512),
    "answer_layers": lambda toy, proxy: AnswerLayers(
        unfitted(toy, proxy), layers=(0, 1), neurons=(1, 2), batch_tokens=512
    ),
    "answers": lambda toy, proxy: Answers(unfitted(toy, proxy), SETTINGS),
    "vision": lambda toy, proxy: proxy.image_stage(),
    "clip": lambda toy, proxy: ClipEmbeddings(toy.pool, toy.towers, hardware=proxy.hardware),
    "clusters": lambda toy, proxy: Spherical(
        Activations(toy.proxy, 0, (0, 1), batch_tokens=512), k=3, hardware=proxy.hardware
    ),
}


def unfitted(toy: Toy, proxy) -> Unfitted:
    return Unfitted(toy.pool, toy.start, toy.proxy.template, True, 256, proxy.hardware)


def stage_on(toy: Toy, name: str, accelerator: str, precision: str = "32-true") -> Stage:
    """A pass of the toy's start point; nothing is fitted."""
    hardware = dataclasses.replace(HARDWARE, accelerator=accelerator)
    recipe = dataclasses.replace(toy.proxy.recipe, precision=precision)
    stage = PASSES[name](toy, dataclasses.replace(toy.proxy, hardware=hardware, recipe=recipe))
    for needed in stage.inputs():
        toy.store.get(needed)
    return stage


def computed(toy: Toy, stage: Stage, out: Path) -> dict[str, np.ndarray]:
    out.mkdir()
    stage.compute(toy.store, out)
    return {path.name: np.load(path) for path in sorted(out.glob("*.npy"))}


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_on_a_gpu_gives_the_values_of_a_cpu(toy, gpu: Gpu, tmp_path, name):
    on_cpu = computed(toy, stage_on(toy, name, "cpu"), tmp_path / "cpu")
    stage = stage_on(toy, name, "gpu")
    with gpu.counting() as counted:
        on_gpu = computed(toy, stage, tmp_path / "gpu")
    assert sum(counted.operators.values()) > 10
    assert on_gpu.keys() == on_cpu.keys()
    for file, values in on_cpu.items():
        np.testing.assert_allclose(on_gpu[file], values, rtol=2e-3, atol=1e-5, err_msg=file)


@pytest.mark.parametrize("name", PASSES)
def test_with_hardware_cpu_nothing_runs_on_a_gpu_that_is_there(toy, gpu: Gpu, tmp_path, name):
    stage = stage_on(toy, name, "cpu")
    with gpu.counting() as counted:
        computed(toy, stage, tmp_path / "cpu")
    assert not counted.operators


class OnCards(TorchDispatchMode):
    """The cards on which tensors are made."""

    def __init__(self) -> None:
        super().__init__()
        self.cards: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_cuda:
            self.cards.add(result.get_device())
        return result


@pytest.mark.parametrize("name", ["activations", "answers", "vision", "clip"])
def test_the_second_process_of_a_host_uses_the_second_card_alone(
    toy, gpu: Gpu, tmp_path, monkeypatch, name
):
    """Otherwise each of eight processes has a context on the first card."""
    stage = stage_on(toy, name, "gpu", "bf16-mixed")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(gpu, "devices", 2)
    cards = OnCards()
    try:
        with cards:
            computed(toy, stage, tmp_path / "gpu")
        assert torch.cuda.current_device() == 1
    finally:
        gpu.current = 0
    assert cards.cards == {1}


def test_what_names_no_card_is_made_on_the_card_of_the_process(gpu: Gpu, monkeypatch):
    monkeypatch.setattr(gpu, "devices", 3)
    try:
        device = device_for("gpu", 2)
        assert torch.ones(1, device="cuda").device == device == torch.device("cuda", 2)
    finally:
        gpu.current = 0


def test_a_target_is_fitted_on_a_host_of_several_cards(toy, gpu: Gpu, tmp_path, monkeypatch):
    """Random states of other cards are not asked for: with two that warns, which is an error."""
    monkeypatch.setattr(gpu, "devices", 4)
    target = dataclasses.replace(toy.target(), hardware=GPU)
    target.compute(toy.store, tmp_path)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


# Spherical k-means: the feature is on the card, as float16.


@pytest.fixture
def feature(tmp_path) -> np.ndarray:
    generator = np.random.default_rng(0)
    np.save(tmp_path / "feature.npy", generator.normal(size=(211, 37)).astype(np.float16))
    return np.load(tmp_path / "feature.npy", mmap_mode="r")


def assigned(values: np.ndarray, device: torch.device, centroids: torch.Tensor):
    assign = Assigner(values, 17, device)
    sums = torch.zeros(centroids.shape, device=device)
    rows = np.flatnonzero(np.arange(len(values)) % 5)
    labels, nearness = assign(rows, centroids.to(device), sums=sums, progress=bar(label=""))
    return labels, nearness, sums.cpu().numpy()


def test_products_of_halves_are_as_exact_as_those_of_float32(gpu: Gpu, feature):
    generator = torch.Generator().manual_seed(0)
    centroids = torch.nn.functional.normalize(torch.randn(11, 37, generator=generator), dim=1)
    centroids[:, 5] *= 1e-5  # where float16 alone has a few bits
    labels, nearness, sums = assigned(feature, torch.device("cuda"), centroids)
    exact = feature[np.arange(211) % 5 > 0].astype(np.float64) @ centroids.double().numpy().T
    assert (labels == exact.argmax(axis=1)).all()
    np.testing.assert_allclose(nearness, exact.max(axis=1), rtol=2e-6)
    on_cpu = assigned(feature, torch.device("cpu"), centroids)
    np.testing.assert_allclose(nearness, on_cpu[1], rtol=1e-5)
    np.testing.assert_allclose(sums, on_cpu[2], rtol=1e-5, atol=1e-5)


def test_a_feature_that_fits_is_copied_to_the_card_once(gpu: Gpu, feature, monkeypatch):
    centroids = torch.nn.functional.normalize(torch.eye(11, 37), dim=1)
    device, rows = torch.device("cuda"), np.arange(211)
    free = round(feature.nbytes / 0.75)
    for room, copies in ((free + 2, 1), (free - 2, 3)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None, room=room: (room, room))
        with gpu.counting() as counted:
            assign = Assigner(feature, 17, device)
            for _ in range(3):
                assign(rows, centroids.to(device), progress=bar(label=""))
        assert counted.copied["to device"] == copies * feature.nbytes + 3 * 4 * 11 * 37


def test_a_pass_of_spherical_k_means_waits_for_the_card_once(gpu: Gpu, feature):
    """For labels and for products, however many blocks there are."""
    centroids = torch.eye(11, 37).to("cuda")
    assign = Assigner(feature, 17, torch.device("cuda"))
    with gpu.counting() as counted:
        assign(np.arange(211), centroids, progress=bar(label=""))
    assert counted.waits == {"copy to host": 2}
