"""The log lines of a multirun, and its summary."""

import logging
import pickle
from collections.abc import Iterable, Iterator, Sequence

from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from xmas.cli.closing import results_of
from xmas.cli.config import build, goal_node
from xmas.cli.sweep.job import Outcome
from xmas.cli.targets import allowed_by_user
from xmas.store import Stage, distributed

log = logging.getLogger("xmas.cli.sweep")


class SweepError(CompactHydraException):
    """Jobs of a multirun failed. Hydra prints the message alone and exits with status 1.

    Args:
        done: the jobs that did not fail.
    """

    def __init__(self, message: str, done: Sequence[Outcome] = ()) -> None:
        super().__init__(message)
        self.done = done


def follow(outcomes: Iterable[Outcome], count: int) -> list[Outcome]:
    """Log a line for every job when it ends.

    Raises SweepError: when all have ended, some have failed; names each with its error and log.
    """
    ended: list[Outcome] = []
    for outcome in outcomes:
        ended.append(outcome)
        state = "done" if outcome.error is None else f"FAILED: {outcome.error}"
        log.info(
            "job %d of %d %.1f s %s  %s", len(ended), count, outcome.seconds, outcome.job, state
        )
    failed = [outcome for outcome in ended if outcome.error]
    if failed:
        done = [outcome for outcome in ended if not outcome.error]
        raise SweepError("\n".join(_summary(failed, count)), done)
    return ended


def log_results(ended: Sequence[Outcome]) -> None:
    """Log what the jobs made and where it is."""
    if distributed.leads() and (results := [*_results(ended)]):
        for line in results_of(results):
            log.info("%s", line)


def _results(ended: Iterable[Outcome]) -> Iterator[tuple[Stage, str, str]]:
    """The goal of every job whose result is a folder, its settings, and the folder."""
    for outcome in sorted(ended, key=lambda outcome: outcome.job.number):
        cfg: DictConfig = pickle.loads(outcome.job.config)
        allowed = allowed_by_user(cfg.allow, cfg.hydra.overrides.task)
        goal = build(goal_node(cfg), allowed)
        if isinstance(goal, Stage):
            path = build(cfg.store, allowed).path(goal)
            yield goal, " ".join(outcome.job.overrides), str(path)


def _summary(failed: list[Outcome], count: int) -> list[str]:
    lines = [f"xmas: {len(failed)} of {count} jobs failed"]
    for outcome in sorted(failed, key=lambda outcome: outcome.job.number):
        lines += [f"  {outcome.job}", f"    {outcome.error}", f"    log: {outcome.job.log}"]
    return [*lines, "The others are done. The same command resumes the failed ones."]
