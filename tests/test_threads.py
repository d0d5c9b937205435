"""Threads: the cores that this process may use, divided among processes; the user's words win."""

import os
import subprocess
import sys

import pytest

from xmas.cli import threads


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "1")
    monkeypatch.setattr(threads, "_set_here", False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))


@pytest.mark.parametrize(
    ("quota", "slurm", "cores"),
    [("max 100000", None, 8), ("250000 100000", None, 3), ("max 100000", "2", 2), (None, "5", 5)],
)
def test_cores_are_those_of_affinity_quota_and_allocation(
    quota, slurm, cores, tmp_path, monkeypatch
):
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    if slurm:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", slurm)
    assert threads.usable_cores(tmp_path / "cpu.max") == cores


def test_processes_divide_the_cores_and_a_later_launcher_divides_again(monkeypatch):
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    threads.share_cores()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["GOMP_SPINCOUNT"]) == ("8", "1000")
    threads.share_cores(3)
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_what_the_user_has_set_stays(monkeypatch, caplog):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    threads.share_cores(2)
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("5", "ACTIVE")
    caplog.set_level("INFO", logger="xmas")
    threads.log_once.cache_clear()
    threads.log_once()
    threads.log_once()
    (line,) = caplog.messages
    assert "threads: 5 of" in line
    assert "OMP_WAIT_POLICY=ACTIVE" in line
    assert "GOMP_SPINCOUNT" not in os.environ


def test_torch_computes_with_the_threads_of_the_command():
    """In a new process: the environment has to be set before torch is loaded."""
    code = (
        "import gc, os, sys; gc.disable(); os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from xmas.cli import threads; assert 'torch' not in sys.modules; threads.share_cores();"
        "import torch; print(torch.get_num_threads(), os.environ['GOMP_SPINCOUNT'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert ended.stdout.split() == ["1", "1000"]


def test_no_plugin_loads_numpy_before_conftest_has_set_its_threads(pytestconfig):
    """jaxtyping's did: each worker multiplied with as many threads as there are cores."""
    assert not pytestconfig.pluginmanager.has_plugin("jaxtyping")
