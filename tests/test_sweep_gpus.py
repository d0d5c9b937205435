"""Concurrent jobs of a host see GPUs of their own."""

import logging

import pytest
import torch

from xmas.cli.sweep.gpus import visible_to_jobs

GPU = {"accelerator": "gpu", "devices": 1}


@pytest.fixture
def host(monkeypatch):
    """A host with a number of GPUs, of which CUDA_VISIBLE_DEVICES may name some."""

    def make(count: int, names: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        if names is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)

    return make


def test_each_job_has_its_own_gpu_without_a_list(host, caplog):
    host(4)
    assert visible_to_jobs(3, None, GPU) == ["0", "1", "2"]
    assert visible_to_jobs(2, None, GPU | {"devices": 2}) == ["0,1", "2,3"]
    assert not caplog.records


def test_the_gpus_are_those_that_the_command_sees(host):
    host(2, "5,GPU-3f")
    assert visible_to_jobs(2, None, GPU) == ["5", "GPU-3f"]


def test_fewer_gpus_than_jobs_are_shared_evenly_and_that_is_said(host, caplog):
    host(2)
    with caplog.at_level(logging.WARNING, logger="xmas.cli.sweep"):
        assert visible_to_jobs(5, None, GPU) == ["0", "1", "0", "1", "0"]
    assert "n_jobs=5: 2 GPUs for jobs that need 1 each" in caplog.text
    assert "with hydra.launcher.n_jobs=2 each has its own" in caplog.text
    host(5)
    two = GPU | {"devices": 2}
    assert visible_to_jobs(3, None, two) == ["0,1", "2,3", "0,1"]  # the fifth alone is not enough


@pytest.mark.parametrize("hardware", [{"accelerator": "cpu", "devices": 2}, None])
def test_jobs_on_a_cpu_are_left_as_they_are(host, hardware):
    host(4)
    assert visible_to_jobs(2, None, hardware) == [None, None]


def test_a_host_without_gpus_leaves_the_error_to_the_job(host):
    host(0)
    assert visible_to_jobs(2, None, GPU) == [None, None]


def test_named_devices_are_dealt_and_have_to_suffice(host):
    host(8)
    assert visible_to_jobs(2, [7, 3, 1], GPU) == ["7", "3"]
    assert visible_to_jobs(2, [4, 5, 6, 7], GPU | {"devices": 2}) == ["4,5", "6,7"]
    message = r"n_jobs=2: expected 2 devices for each job where .* names them \(\[4, 5, 6\]\)"
    with pytest.raises(ValueError, match=message):
        visible_to_jobs(2, [4, 5, 6], GPU | {"devices": 2})
    with pytest.raises(ValueError, match=r"hydra\.launcher\.n_jobs=0: expected 1 or more"):
        visible_to_jobs(0, None, GPU)
