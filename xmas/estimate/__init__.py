"""The estimate: what a goal will cost, stage by stage, before anything runs.

Costs are computed from what is configured and what can be counted in seconds; nothing is made,
trained or decoded. What is assumed is said below the table.
"""

import dataclasses

from xmas.estimate.assumed import Assumed
from xmas.estimate.bill import estimated_work, itemise
from xmas.estimate.page import render
from xmas.estimate.plan import stages
from xmas.estimate.work import Scene
from xmas.evaluation.scores import Reference
from xmas.models.chat.tokens import Tokenised
from xmas.store import Stage, Store
from xmas.training.fit.recipe import Hardware


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What `goal=estimate` makes. Not a stage: the store is looked at each time."""

    of: str  # the name of the goal
    goal: object  # what has that name
    reference: Reference  # whose training on all rows is the measure of every cost
    hardware: Hardware  # of stages that name none
    assumed: Assumed = dataclasses.field(default_factory=Assumed)

    def make(self, store: Store) -> str:
        """The table and what it rests on.

        Raises ValueError: the goal is no stage, or the hardware does not say what it is.
        """
        if not isinstance(self.goal, Stage):
            raise ValueError(f"estimate.of={self.of} is no stage; try scores, subset or proxy")
        planned, full = stages(self.goal), self.reference.targets()[0]
        tokens = [each for each in [*planned, *stages(full)] if isinstance(each, Tokenised)]
        scene = Scene(store, self.hardware, self.assumed, tuple(tokens))
        whole = estimated_work(full, scene)
        return render(self.of, itemise(planned, scene), scene, whole.flops if whole else 0.0)
