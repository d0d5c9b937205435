"""What was chosen with validation rows of benchmarks is audited by itself.

Such a subset may have been chosen for showing a benchmark's images, and its scores look better for
it; so the command compares the pool's images with those of the suite without being asked.
"""

import dataclasses
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from xmas.cli.config import build
from xmas.store import Stage, Store, key
from xmas.store.planned_stages import planned_stages

if TYPE_CHECKING:
    from xmas.results.audit import Audit
    from xmas.selection.subset import Subset

log = logging.getLogger(__name__)


def audit_what_saw_validation(
    goal: Stage, store: Store, cfg: DictConfig, allowed: frozenset[str]
) -> None:
    """Log what the audit finds for each subset that the goal was made of, where its selector saw
    validation rows; without a suite say that nothing was compared.
    """
    for subset in _subsets(goal):
        log.warning("%s was chosen by validation rows of benchmarks", f"subset/{key(subset)}")
        if not cfg.suite:
            log.warning("no images were compared; name the benchmarks, e.g. suite=ten")
            continue
        audit: Audit = build(cfg.audit, allowed)
        for line in dataclasses.replace(audit, subset=subset).make(store).splitlines():
            log.info("audit: %s", line)


def _subsets(goal: Stage) -> "Iterator[Subset]":
    """The subsets among what a goal was made of whose selector saw validation rows."""
    planned = planned_stages(goal)
    if not any(stage.kind == "subset" for stage in planned):
        return
    from xmas.selection.protocol import saw_validation  # not for goals without selection
    from xmas.selection.subset import Subset

    for stage in planned:
        if isinstance(stage, Subset) and saw_validation(stage.ranking.selector):
            yield stage
