"""Learnability: the rows whose loss falls most during a fit first."""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.features.losses.answers import Answers
from xmas.selection.protocol import Ranked
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class Learnability:
    """Largest loss after the first step minus loss after the last step first; ties by row.

    Text-only rows are ranked with the others.

    Source: LoBaSS (arXiv 2310.13008), the difference alone; HL in XMAS (arXiv 2510.01454).
    Deviation: HL is of the target before and after a fit on all rows, which
    `selector.answers=${features.target_answers}` gives at the cost of that fit; the default is the
    proxy, whose first snapshot is after 1 % of its fit.
    """

    answers: Answers

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        """Raises ValueError: there are losses of one step only."""
        losses = self.answers.losses(store)
        if losses.shape[1] < 2:
            raise ValueError(
                "learnability: there are losses after one step only, so no loss has changed; "
                "set proxy.snapshots to 2 or more"
            )
        scores = losses[:, 0] - losses[:, -1]
        order = np.argsort(-scores, kind="stable")  # NaN, a row without an answer, comes last
        return Ranked(order, scores, np.full(len(scores), -1))
