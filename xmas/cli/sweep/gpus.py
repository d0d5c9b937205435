"""Which GPUs each of the concurrent jobs of a host sees: CUDA_VISIBLE_DEVICES of its process."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

log = logging.getLogger("xmas.cli.sweep")


def visible_to_jobs(
    jobs: int, named: Sequence[int | str] | None, hardware: Mapping[str, Any] | None
) -> list[str | None]:
    """The GPUs of each of `jobs` concurrent jobs, numbers with commas; None: all that there are.

    Without this, all jobs would compute on the first GPU. Where there are fewer GPUs than jobs
    need, several jobs share one.

    Args:
        named: GPU numbers of the user, of which each job gets its own; None: the GPUs that this
            process sees, if the hardware is not a CPU.
        hardware: of the jobs: `accelerator`, and the `devices` of each.

    Raises ValueError: there is no job, or fewer GPUs are named than the jobs need.
    """
    if jobs < 1:
        raise ValueError(f"hydra.launcher.n_jobs={jobs}: expected 1 or more")
    per_job = int((hardware or {}).get("devices", 1))
    if named is not None:
        if len(named) < jobs * per_job:
            raise ValueError(
                f"hydra.launcher.n_jobs={jobs}: expected {per_job} devices for each job where "
                f"hydra.launcher.devices names them ({list(named)})"
            )
        return _dealt([str(gpu) for gpu in named], jobs, per_job)
    on_cpu = hardware is None or hardware.get("accelerator", "auto") == "cpu"
    gpus = [] if on_cpu else _seen()
    if len(gpus) < per_job:
        return [None] * jobs  # the job itself says what is missing
    if len(gpus) < jobs * per_job:
        own = len(gpus) // per_job
        log.warning(
            "hydra.launcher.n_jobs=%d: %d GPUs for jobs that need %d each, so that several share "
            "one; with hydra.launcher.n_jobs=%d each has its own", jobs, len(gpus), per_job, own,
        )  # fmt: skip
    return _dealt(gpus, jobs, per_job)


def _dealt(gpus: list[str], jobs: int, per_job: int) -> list[str | None]:
    """Groups of consecutive GPUs, one for each job, from the first again where needed."""
    groups = [gpus[start : start + per_job] for start in range(0, len(gpus), per_job)]
    groups = [group for group in groups if len(group) == per_job]
    return [",".join(groups[job % len(groups)]) for job in range(jobs)]


def _seen() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them; no context is made."""
    import torch

    count = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is None:
        return [str(number) for number in range(count)]
    return [name.strip() for name in names.split(",") if name.strip()][:count]
