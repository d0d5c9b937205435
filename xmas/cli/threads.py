"""How many threads compute, and what idle threads do; set before torch is imported.

By default idle OpenMP threads spin. Where another process runs on the same cores, spinning threads
take the time that the working ones need: the first stage of the demo made 20 pictures a second next
to one other process, and 392 with threads that sleep.
"""

import functools
import logging
import math
import os
from pathlib import Path

log = logging.getLogger(__name__)

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "max 100000" or microseconds of CPU a period
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
    """Give each of `processes` on this host its part of the cores, and let idle threads sleep.

    What the user, torchrun or a test runner has set in the environment stays.
    """
    global _set_here
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if _set_here or "OMP_NUM_THREADS" not in os.environ:
        _set_here = True
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        os.environ["OMP_NUM_THREADS"] = str(max(1, usable_cores() // (processes * workers)))


@functools.cache
def log_once() -> None:
    """One line a process, however many jobs of a sweep it runs."""
    count, policy = os.environ.get("OMP_NUM_THREADS"), os.environ.get("OMP_WAIT_POLICY", "")
    log.info(
        "threads: %s of %d cores, idle ones %s (OMP_NUM_THREADS, OMP_WAIT_POLICY)",
        count,
        usable_cores(),
        "sleep" if policy.upper() == "PASSIVE" else "spin",
    )
