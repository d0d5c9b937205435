"""AUM: the answers that a model is surest of first; what D2-Pruning takes for importance."""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.features.losses.answers import Answers
from xmas.selection.protocol import Ranked
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class Aum:
    """Largest margin first: the right token's probability minus the largest other one's, the mean
    over a row's answer tokens; ties by row.

    Of one model, as in COINCIDE's D2-Pruning, where the name's own paper (arXiv 2001.10528) takes
    the mean over a fit, of logits, and drops small margins as likely mislabelled.
    """

    answers: Answers

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        scores = self.answers.column(store, "margin")
        order = np.argsort(-scores, kind="stable")  # NaN, a row without an answer, comes last
        return Ranked(order, scores, np.full(len(scores), -1))
