"""Hydra plugins around `xmas.cli.sweep`; Hydra finds them only in packages named hydra_plugins."""

from collections.abc import Iterator, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from xmas.cli.sweep.job import Job, Outcome, compose, run
from xmas.cli.sweep.summary import follow


class Grid(BasicSweeper):
    """Hydra's grid search. The launchers below compose every job before the first one starts."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Do nothing: composing each job twice would double the time of a job that only reuses."""


class Local(Launcher):
    """Run one job after the other in this process."""

    def __init__(self, **given: Any) -> None:
        self.given = given

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        setup_globals()
        configure_log(self.config.hydra.job_logging, self.config.hydra.verbose)
        jobs = [
            compose(self.context, self.config, overrides, number=initial_job_idx + place)
            for place, overrides in enumerate(job_overrides)
        ]
        follow(self.outcomes(jobs), len(jobs))
        return [JobReturn(status=JobStatus.COMPLETED) for _ in jobs]

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Yield how each job ended, when it ends."""
        for job in jobs:
            yield run(job, self.context)


class Processes(Local):
    """Run several jobs at a time on this host, a process each."""

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        from xmas.cli.sweep.processes import outcomes

        devices = self.given["devices"]
        return outcomes(
            jobs,
            self.context,
            side_by_side=self.given["n_jobs"],
            devices=None if devices is None else list(devices),
        )


class Slurm(Local):
    """Run the jobs as a SLURM array, through submitit."""

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        from xmas.cli.sweep.slurm import outcomes

        return outcomes(jobs, self.context, self.given)
