"""The estimate: what a goal will cost, stage by stage, before anything runs.

Costs are computed from the configuration and from counts that take seconds; nothing is computed,
trained or decoded. The assumptions are listed below the table.
"""

import dataclasses
from collections.abc import Sequence

from xmas.data.rows import PoolError
from xmas.estimate.assumed import Assumed
from xmas.estimate.page import render
from xmas.estimate.stage_estimates import estimate_stages, estimated_work, seconds_of
from xmas.estimate.work import Context
from xmas.evaluation.reference import Reference
from xmas.models.chat.tokens import Tokenised
from xmas.store import Stage, Store
from xmas.store.feasible import check_all
from xmas.store.planned_stages import planned_stages
from xmas.training.fit.recipe import Hardware


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The page of `goal=estimate`. Not a stage: it depends on what is in the store today."""

    of: str  # the name of the goal
    goal: object  # the node of that name
    reference: Reference  # costs are shown relative to its training on all rows
    hardware: Hardware  # of stages without a `hardware` field
    assumed: Assumed = dataclasses.field(default_factory=Assumed)

    def make(self, store: Store) -> str:
        """The table of costs and its assumptions, as text.

        Raises:
            ValueError: the goal is not a stage, or `hardware.device` is not given.
        """
        if not isinstance(self.goal, Stage):
            raise ValueError(f"estimate.of={self.of} is not a stage; try scores, subset or proxy")
        planned, full = planned_stages(self.goal), self.reference.targets()[0]
        stages = [*planned, *planned_stages(full)]
        tokens = [stage for stage in stages if isinstance(stage, Tokenised)]
        context = Context(store, self.hardware, self.assumed, tuple(tokens))
        work = estimated_work(full, context)
        estimates = estimate_stages(planned, context)
        page = render(self.of, estimates, context, work.flops if work else 0.0)
        try:
            check_all(self.goal, store)
        except (OSError, PoolError):  # files that are not there, in whose place numbers are assumed
            return page
        except ValueError as error:
            return f"{page}\n\nThis cannot be computed as it is: {error}"
        return page


def estimated_seconds(
    stages: Sequence[Stage], store: Store, hardware: Hardware, assumed: Assumed
) -> list[float | None]:
    """Wall seconds of each of these stages; None where its cost is unknown.

    Raises:
        ValueError: `hardware.device` is not given, or the questions of a benchmark are unknown.
        PoolError: a row of a pool is malformed.
    """
    tokens = [stage for stage in stages if isinstance(stage, Tokenised)]
    context = Context(store, hardware, assumed, tuple(tokens))
    return [seconds_of(stage, context) for stage in stages]
