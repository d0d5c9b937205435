"""AUM: the answers that a model is surest of first; the importance in COINCIDE's D2-Pruning."""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.features.losses.answers import Answers
from xmas.selection.protocol import Ranked
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class Aum:
    """Largest margin first: the correct token's probability minus the largest other one, as the
    mean over a row's answer tokens; ties by row.

    Source: COINCIDE's D2-Pruning baseline (arXiv 2406.10995), with the margin of one model.
    Deviation: AUM's own paper (arXiv 2001.10528) averages margins of logits over a fit, and drops
    small ones as likely mislabelled.
    """

    answers: Answers

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        scores = self.answers.column(store, "margin")
        order = np.argsort(-scores, kind="stable")  # NaN, a row without an answer, comes last
        return Ranked(order, scores, np.full(len(scores), -1))
