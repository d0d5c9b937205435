"""Fits that would run out of a device's memory are refused before anything runs."""

from omegaconf import DictConfig

from xmas.cli.config import build
from xmas.store import Stage, Store, distributed
from xmas.store.feasible import unfinished


def check_memory(goal: Stage, store: Store, cfg: DictConfig, allowed: frozenset[str]) -> None:
    """Raise ValueError: a fit that `goal` needs does not fit into its device, by the estimate.

    Nothing is estimated where no fit on a GPU is to do; rank 0 estimates for all.
    """
    if not distributed.leads():
        return
    stages = [*unfinished(goal, store)]
    if not any(getattr(getattr(stage, "hardware", None), "memory", None) for stage in stages):
        return
    from xmas.estimate.too_large import refuse_too_large  # imports torch

    refuse_too_large(stages, store, build(cfg.estimate.assumed, allowed))
