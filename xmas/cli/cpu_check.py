"""Published models on a CPU: what does not fit into memory is refused, what takes days is named."""

import logging
import os
from typing import Any

from omegaconf import DictConfig

from xmas.cli.config import build
from xmas.store import Stage, Store, distributed
from xmas.store.feasible import unfinished

log = logging.getLogger(__name__)

_LONG = 24 * 3600.0  # estimated seconds of a fit from which there is a warning
_REMEDY = (
    "take hardware=one_gpu, or another with a GPU, or proxy=small and target=small, which are "
    "trained on your pool, for trying things out"
)


def check_cpu(goal: Stage, store: Store, cfg: DictConfig, allowed: frozenset[str]) -> None:
    """Warn of fits of published models that take days on a CPU.

    Nothing is estimated where there are none; rank 0 estimates for all.

    Raises:
        ValueError: one needs more memory than this host has, by the estimate.
    """
    if not distributed.leads():
        return
    fits: list[Any] = [stage for stage in unfinished(goal, store) if _is_published_on_cpu(stage)]
    if not fits:
        return
    from xmas.estimate.stage_estimates import estimated_work, seconds_of
    from xmas.estimate.work import Context

    assumed = build(cfg.estimate.assumed, allowed)
    for fit in fits:
        context = Context(store, fit.hardware, assumed, (fit.tokens(),))
        work, seconds = estimated_work(fit, context), seconds_of(fit, context)
        if work is None or seconds is None:
            continue
        if work.device + work.host > host_memory():
            raise ValueError(
                f"{fit.kind} ({work.what}) needs {(work.device + work.host) / 1e9:.0f} GB on a "
                f"CPU, by the estimate, and this host has {host_memory() / 1e9:.0f}; {_REMEDY}"
            )
        if seconds > _LONG:
            log.warning(
                "%s (%s) takes about %s hours on this CPU, by the estimate; %s",
                *(fit.kind, work.what, f"{seconds / 3600:,.0f}", _REMEDY),
            )


def host_memory() -> float:
    """Bytes of this host's memory."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _is_published_on_cpu(stage: Stage) -> bool:
    """Whether a stage fits a model of published weights on the CPU."""
    hardware, start = getattr(stage, "hardware", None), getattr(stage, "start", None)
    on_cpu = getattr(hardware, "accelerator", None) == "cpu"
    return on_cpu and hasattr(stage, "recipe") and bool(getattr(start, "sources", dict)())
