"""Jobs on SLURM, through submitit.

submitit asks SLURM's accounting for the state of a job, and without accounting it waits without end
for a job that was cancelled or killed. Here the queue is asked instead, which every cluster has: a
job that is no longer in it and has no result is dead.
"""

import dataclasses
import logging
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.types import HydraContext

from xmas.cli.sweep.job import Job, Outcome, run_elsewhere
from xmas.cli.sweep.processes import say_into
from xmas.cli.sweep.summary import SweepError

log = logging.getLogger("xmas.cli.sweep")

LOOK = 1.0  # seconds between checks for results
ASK = 10.0  # seconds between queries of the queue
GRACE = 20.0  # seconds until a result is visible on another host, at most
_ENDED = set(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED "
    "TIMEOUT".split()
)
_GENERAL = set(  # submitit's own names; all others are SLURM's
    "cpus_per_task gpus_per_node mem_gb name nodes stderr_to_stdout tasks_per_node "
    "timeout_min".split()
)


@dataclasses.dataclass(frozen=True)
class OnNode:
    """Called by submitit on a node."""

    context: HydraContext

    def __call__(self, job: Job) -> Outcome:
        import submitit  # pyright: ignore[reportMissingImports]  # an extra

        if submitit.JobEnvironment().global_rank == 0:
            say_into(job.log)
        return run_elsewhere(job, self.context)

    def checkpoint(self, job: Job) -> Any:
        """Requeue the job before its time is up; it then resumes from the store."""
        import submitit  # pyright: ignore[reportMissingImports]

        return submitit.helpers.DelayedSubmission(self, job)


def outcomes(
    jobs: Sequence[Job], context: HydraContext, given: Mapping[str, Any]
) -> Iterator[Outcome]:
    """Submit the jobs as an array; yield each outcome when its job ends.

    `given` are the fields of submitit's launcher for Hydra. Raises SweepError: there is no SLURM
    on this host, or it refuses the jobs.
    """
    import submitit  # pyright: ignore[reportMissingImports]
    from submitit.core.utils import FailedJobError  # pyright: ignore[reportMissingImports]

    if shutil.which("sbatch") is None:
        raise SweepError("xmas: hydra/launcher=slurm: no sbatch here; use a host that submits jobs")
    options = {name: value for name, value in given.items() if value is not None}
    executor = submitit.AutoExecutor(
        folder=options.pop("submitit_folder"),
        cluster="slurm",
        slurm_max_num_timeout=options.pop("max_num_timeout"),
    )
    executor.update_parameters(
        **{name if name in _GENERAL else f"slurm_{name}": value for name, value in options.items()}
    )
    try:
        with executor.batch():
            slurm_jobs = [executor.submit(OnNode(context), job) for job in jobs]
    except FailedJobError as error:
        raise SweepError(f"xmas: hydra/launcher=slurm: sbatch refuses the jobs: {error}") from error
    log.info("SLURM jobs %s to %s", slurm_jobs[0].job_id, slurm_jobs[-1].job_id)
    try:
        yield from _ended(dict(zip(jobs, slurm_jobs, strict=True)))
    except KeyboardInterrupt:
        log.info("jobs continue: scancel %s ends them", slurm_jobs[0].job_id.split("_")[0])
        raise


def _ended(waiting: dict[Job, Any]) -> Iterator[Outcome]:
    start_time, query_time, gone = time.monotonic(), 0.0, dict.fromkeys(waiting, 0.0)
    while waiting:
        time.sleep(LOOK)
        now = time.monotonic()
        for job in [job for job, slurm_job in waiting.items() if _whole(slurm_job)]:
            yield _result(job, waiting.pop(job), now - start_time)
        if now - query_time < ASK:
            continue
        query_time = now
        queue = states()
        if queue is None:
            continue
        for job, slurm_job in [*waiting.items()]:
            state = queue.get(slurm_job.job_id, "no longer in the queue")
            if state in queue.values() and state not in _ENDED:
                gone[job] = 0.0
            elif not gone[job]:
                gone[job] = now
            elif now - gone[job] > GRACE:
                del waiting[job]
                yield Outcome(job, now - start_time, _death(slurm_job, state))


def _whole(submitted: Any) -> bool:
    """Whether all tasks of a job have written a result."""
    tasks = [submitted.task(number) for number in range(submitted.num_tasks)]
    return all(task.paths.result_pickle.exists() for task in tasks)


def _result(job: Job, submitted: Any, seconds: float) -> Outcome:
    from submitit.core.utils import FailedJobError  # pyright: ignore[reportMissingImports]

    try:
        return dataclasses.replace(submitted.results()[0], job=job)
    except FailedJobError as error:  # not raised by the job itself
        message = str(error).strip().splitlines()
        return Outcome(job, seconds, f"SLURM job {submitted.job_id}: {message[-1]}")


def _death(submitted: Any, state: str) -> str:
    return f"SLURM job {submitted.job_id}: {state}, and no result; see {submitted.paths.stderr}"


def states() -> dict[str, str] | None:
    """The state of each job of this user, by id; None while SLURM does not answer.

    A queue that does not answer does not affect jobs.
    """
    query = subprocess.run(
        ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i %T"],
        capture_output=True,
        text=True,
        check=False,
    )
    if query.returncode:
        log.warning("squeue: %s; waiting", query.stderr.strip())
        return None
    return dict(line.split(maxsplit=1) for line in query.stdout.splitlines() if line.strip())
