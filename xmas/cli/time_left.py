"""What a run or a sweep has to compute and how long that may take, for its progress bars."""

import contextlib
import logging
import pickle
import sys
from collections.abc import Iterator, Sequence

from omegaconf import DictConfig

from xmas.cli.config import build, goal_node
from xmas.cli.sweep.job import Job
from xmas.cli.targets import allowed_by_user
from xmas.store import Stage, Store, distributed, key
from xmas.store.chain import Chain
from xmas.store.force import kinds_of
from xmas.store.planned_stages import planned_stages

log = logging.getLogger(__name__)

_jobs: list[Job] = []  # of the sweep that this process runs


@contextlib.contextmanager
def sweep(jobs: Sequence[Job]) -> Iterator[None]:
    """Bars of the jobs that run inside count the stages of all of them."""
    _jobs[:] = jobs
    try:
        yield
    finally:
        _jobs.clear()
        Chain.running = None


def follow(goal: object, store: Store, cfg: DictConfig, allowed: frozenset[str]) -> None:
    """Let the bars of a run show which stage of how many is computed, and the time left over all.

    Nothing is planned for a goal that is there: a job of a sweep that only reuses takes no longer.
    A plan or an estimate that cannot be made stops no run: its bars show less.

    `allowed`: packages that configurations may name.
    """
    if not _jobs:
        Chain.running = None
    if Chain.running is not None or not distributed.leads() or not isinstance(goal, Stage):
        return
    try:
        if store.path(goal).exists() and not kinds_of(store.force):
            return
        Chain.running = Chain(_estimates(goal, store, cfg, allowed))
        for job in _jobs:
            job_cfg: DictConfig = pickle.loads(job.config)
            allowed = allowed_by_user(job_cfg.allow, job_cfg.hydra.overrides.task)
            job_goal = build(goal_node(job_cfg), allowed)
            if isinstance(job_goal, Stage):
                job_store = build(job_cfg.store, allowed)
                Chain.running.estimates |= _estimates(job_goal, job_store, job_cfg, allowed)
    except Exception:  # the run itself says what is wrong with its goal
        log.debug("not all stages of this run are known, nor their time", exc_info=True)


def _estimates(
    goal: Stage, store: Store, cfg: DictConfig, allowed: frozenset[str]
) -> dict[str, float | None]:
    """Seconds of every stage that has to be computed, by "<kind>/<key>"; None: unknown."""
    forced = kinds_of(store.force)
    todo = {
        f"{stage.kind}/{key(stage)}": stage
        for stage in planned_stages(goal)
        if stage.kind in forced or not store.path(stage).exists()
    }
    seconds: dict[str, float | None] = dict.fromkeys(todo)
    if "torch" not in sys.modules:  # nothing that takes long; estimates would import it
        return seconds
    from xmas.estimate import estimated_seconds

    try:
        hardware = build(cfg.hardware, allowed)
        assumed = build(cfg.estimate.assumed, allowed)
        estimates = estimated_seconds(list(todo.values()), store, hardware, assumed)
        return dict(zip(todo, estimates, strict=True))
    except Exception:  # a pool that cannot be counted, a hardware without a device
        log.debug("no time left over all stages is shown", exc_info=True)
        return seconds
