"""How many threads compute, and how long idle ones spin; set before torch is imported.

By default an idle OpenMP thread spins for about a millisecond before it sleeps. Next to other work
on the same cores that takes the time that the working threads need. Threads that sleep at once are
slow where nothing else runs, since small matrices wake them thousands of times a second. A short
spin is nearly as good as the better of both; measured in `experiments/threads/`.
"""

import functools
import logging
import math
import os
from pathlib import Path

log = logging.getLogger(__name__)

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "max 100000" or microseconds of CPU a period
_SPINS = "1000"  # of an idle thread before it sleeps
_set_here = False  # whether OMP_NUM_THREADS is ours, so that launchers may divide it


def usable_cores(quota: Path = _QUOTA) -> int:
    """Cores that this process may use: by affinity, container quota and SLURM's allocation."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = [cores or 1]
    if quota.exists():
        allowed, period = quota.read_text().split()
        if allowed != "max":
            limits.append(math.ceil(int(allowed) / int(period)))
    if slurm := os.environ.get("SLURM_CPUS_PER_TASK"):
        limits.append(int(slurm))
    return max(1, min(limits))


def share_cores(processes: int = 1) -> None:
    """Give each of `processes` on this host its part of the cores, and let idle threads sleep soon.

    What the user, torchrun or a test runner has set in the environment stays.
    """
    global _set_here
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    if _set_here or "OMP_NUM_THREADS" not in os.environ:
        _set_here = True
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        os.environ["OMP_NUM_THREADS"] = str(max(1, usable_cores() // (processes * workers)))


@functools.cache
def log_once() -> None:
    """One line a process, however many jobs of a sweep it runs."""
    idle = {name: os.environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    log.info(
        "threads: %s of %d cores (OMP_NUM_THREADS); idle ones: %s",
        os.environ.get("OMP_NUM_THREADS"),
        usable_cores(),
        ", ".join(f"{name}={value}" for name, value in idle.items() if value),
    )
