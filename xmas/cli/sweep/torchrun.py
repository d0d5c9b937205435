"""Jobs on several devices: the job starts torchrun, which starts a process for each."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
PORT = 29500  # where the hosts of a job meet: torchrun's own default


def wanted(hardware: Any) -> bool:
    """Whether the job's hardware needs more than one process."""
    return hardware is not None and hardware.get("devices", 1) * hardware.get("nodes", 1) > 1


def command(hardware: Any) -> list[str]:
    """The torchrun command for this host.

    Raises ValueError: several hosts are configured, but this is not a SLURM job with a node list.
    """
    start = [sys.executable, "-m", "torch.distributed.run"]
    start += ["--nproc-per-node", str(hardware.devices)]
    nodes = hardware.get("nodes", 1)
    if nodes == 1:
        return [*start, "--standalone"]
    if "SLURM_JOB_NODELIST" not in os.environ:
        raise ValueError(
            f"hardware.nodes={nodes}: a job on several hosts needs hydra/launcher=slurm, "
            f"hydra.launcher.nodes={nodes} and hydra.launcher.tasks_per_node=1"
        )
    from submitit import JobEnvironment  # pyright: ignore[reportMissingImports]  # an extra

    here = JobEnvironment()
    return [
        *start,
        *("--nnodes", str(nodes), "--rdzv-backend", "c10d", "--rdzv-id", here.job_id),
        *("--rdzv-endpoint", f"{here.hostnames[0]}:{PORT}"),
    ]


def run_on_all(hardware: Any, config: DictConfig, overrides: Sequence[str], log: str) -> str | None:
    """Run a job's command on all devices; its error in one line, None if it succeeded.

    Its output is appended to `log`. On Linux it ends with this process, also when that is killed.
    """
    config_dirs = [
        f"--config-dir={source.path}"
        for source in config.hydra.runtime.config_sources
        if source.provider == "command-line"
    ]
    with open(log, "ab") as file:
        ended = subprocess.run(
            [*command(hardware), "-m", "xmas", *config_dirs, *overrides],
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
    return f"torchrun ended with status {ended.returncode}" if ended.returncode else None


def _end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when the one that started it has ended."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
