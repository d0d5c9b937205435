"""Hydra plugins around `xmas.cli.sweep`; Hydra finds them only in packages named hydra_plugins."""

from collections.abc import Iterator, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from xmas.cli import garbage, time_left
from xmas.cli.sweep.job import Job, Outcome, compose, run
from xmas.cli.sweep.summary import SweepError, follow, log_results


class Grid(BasicSweeper):
    """Hydra's grid search, without what it does before a launcher.

    Composing each job to validate it: the launchers below compose all jobs before the first starts.
    Saving a `multirun.yaml`: nothing reads it, and a store of finished results may be read-only.
    """

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        self.overrides = self.split_arguments(overrides, self.max_batch_size)
        garbage.resume()  # composed jobs leave much of it, and this process may run for days
        started = 0
        ended = []
        while not self.is_done():
            batch = self.get_job_batch()
            ended.append(self.launcher.launch(batch, initial_job_idx=started))
            started += len(batch)
        return ended


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
        try:
            ended = follow(self.outcomes(jobs), len(jobs))
        except SweepError as error:
            log_results(error.done)
            raise
        if len(jobs) > 1:
            log_results(ended)
        return [JobReturn(status=JobStatus.COMPLETED) for _ in jobs]

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Yield how each job ended, when it ends."""
        with time_left.sweep(jobs):
            for job in jobs:
                yield run(job, self.context)


class Processes(Local):
    """Run several jobs at a time on this host, a process each."""

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        from xmas.cli.sweep.gpus import visible_to_jobs
        from xmas.cli.sweep.processes import outcomes

        gpus = visible_to_jobs(
            self.given["n_jobs"], self.given["devices"], self.config.get("hardware")
        )
        return outcomes(jobs, self.context, gpus=gpus)


class Slurm(Local):
    """Run the jobs as a SLURM array, through submitit."""

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        from xmas.cli.sweep.slurm import outcomes

        return outcomes(jobs, self.context, self.given)
