"""Which device a process computes on, and what is set with it; CUDA is a stand-in here."""

import ast
import contextlib
import dataclasses
from pathlib import Path

import pytest
import torch

import xmas
from xmas.models.device import device_for
from xmas.store import Store
from xmas.store.feasible import check_all
from xmas.training.fit.recipe import Hardware


@pytest.fixture
def gpus(monkeypatch):
    """A host with a number of GPUs; the list of those that became current."""

    def host(count: int) -> list[int]:
        current: list[int] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", current.append)
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
        return current

    return host


def test_the_hardware_setting_decides_not_the_host(gpus):
    current = gpus(2)
    assert device_for("cpu") == torch.device("cpu")
    assert current == []
    assert torch.backends.cudnn.allow_tf32
    for accelerator in ("gpu", "cuda", "auto"):
        assert device_for(accelerator) == torch.device("cuda", 0)


def test_auto_is_the_cpu_where_there_is_no_gpu(gpus):
    gpus(0)
    assert device_for("auto") == torch.device("cpu")


def test_every_process_of_a_host_has_a_gpu_which_is_current(gpus, monkeypatch):
    current = gpus(4)
    assert device_for("gpu", 3) == torch.device("cuda", 3)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert device_for("auto") == torch.device("cuda", 2)
    assert current == [3, 2]


@pytest.mark.parametrize(("count", "rank"), [(0, 0), (2, 2)])
def test_a_gpu_that_is_not_there_is_refused(gpus, count, rank):
    gpus(count)
    message = (
        rf"hardware\.accelerator=gpu: process {rank} of this host needs GPU {rank}, but torch sees "
        rf"{count}; set hardware=cpu"
    )
    with pytest.raises(ValueError, match=message):
        device_for("gpu", rank)


def test_float32_convolutions_on_a_gpu_are_not_tf32(gpus):
    """The patch convolution would be off by 2e-4 to 4e-4; products of matrices are exact anyway."""
    gpus(1)
    device_for("gpu")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


CHOICES = {"is_available", "set_device"}
PACKAGE = Path(xmas.__path__[0])


def nodes(kind: type, word: str):
    """The nodes of a kind in all modules of the package with a word in them, and their paths."""
    for path in PACKAGE.rglob("*.py"):
        if word not in (text := path.read_text()):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, kind):
                yield path.relative_to(PACKAGE).as_posix(), node


def test_no_other_module_chooses_a_device():
    """`torch.cuda.is_available` and the word "cuda" outside the one function, with what they do."""
    reasons = {
        "models/device.py": "the choice",
        "evaluation/loaded_target.py": "frees memory of a GPU, if there is one",
        "store/provenance.py": "the name of the GPU, for the record",
        "doctor/machine.py": "tells what torch sees",
    }
    users = {
        module
        for module, node in nodes(ast.Attribute, "cuda")
        if node.attr in CHOICES and ast.unparse(node.value) == "torch.cuda"
    }
    assert users == set(reasons)


def test_random_states_are_forked_for_named_devices_alone():
    """Without a list torch asks every GPU of the host for its state, and warns where it has two."""
    forks = [
        (module, [keyword.arg for keyword in node.keywords])
        for module, node in nodes(ast.Call, "fork_rng")
        if ast.unparse(node.func).endswith("fork_rng")
    ]
    assert len(forks) > 5
    assert [module for module, names in forks if "devices" not in names] == []


# What the hardware setting and a fit do not allow together is refused before the start.


@pytest.mark.parametrize(
    ("accelerator", "precision", "message"),
    [
        ("gpu", "32-true", r"flash_attention_2 computes in 16 bits only, .*precision=32-true; set"),
        ("cpu", "bf16-mixed", r"flash_attention_2 needs a GPU, but hardware\.accelerator=cpu"),
        ("gpu", "bf16-mixed", None),
    ],
)
def test_flash_attention_without_kernels_is_refused_before_anything_is_computed(
    toy, tmp_path, accelerator, precision, message
):
    hardware = Hardware(accelerator, attention="flash_attention_2")
    recipe = dataclasses.replace(toy.proxy.recipe, precision=precision)
    proxy = dataclasses.replace(toy.proxy, hardware=hardware, recipe=recipe)
    refused = pytest.raises(ValueError, match=message) if message else contextlib.nullcontext()
    with refused:
        check_all(proxy, Store(str(tmp_path)))
