"""Learnability: the rows whose loss a fit lowers most first."""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.features.losses.answers import Answers
from xmas.selection.protocol import Ranked
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class Learnability:
    """Largest loss behind the first step minus loss behind the last one first; ties by row.

    XMAS's comparison (HL) is the target before and after a fit on all rows:
    `selector.answers=${features.target_answers}`, which costs that fit. The default asks the proxy,
    whose first snapshot has seen 1 % of its fit. Text-only rows are ranked with the others.
    Source: LoBaSS (arXiv 2310.13008), the difference alone; HL in XMAS (arXiv 2510.01454).
    """

    answers: Answers

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        """Raises ValueError: the losses of one step alone are known."""
        losses = self.answers.losses(store)
        if losses.shape[1] < 2:
            raise ValueError(
                "learnability: losses behind one step alone, nothing is learnt in between; "
                "set proxy.snapshots to 2 or more"
            )
        scores = losses[:, 0] - losses[:, -1]
        order = np.argsort(-scores, kind="stable")  # NaN, a row without an answer, comes last
        return Ranked(order, scores, np.full(len(scores), -1))
