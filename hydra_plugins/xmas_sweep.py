"""Hydra's way to `xmas.cli.sweep`: plugins are found in packages called hydra_plugins only."""

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
    """Hydra's grids. The launchers below compose every job before the first one starts."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing: to compose each job twice is half of what a warm job costs."""


class Local(Launcher):
    """One job after the other in this process."""

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
        """What came of each job, as it ends."""
        for job in jobs:
            yield run(job, self.context)


class Processes(Local):
    """Several jobs at once on this host, a process each."""

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
    """A SLURM job each, through submitit, in an array."""

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        from xmas.cli.sweep.slurm import outcomes

        return outcomes(jobs, self.context, self.given)
