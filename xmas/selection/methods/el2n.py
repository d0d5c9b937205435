"""EL2N: the answers that a model gets most wrong first."""

import dataclasses

import numpy as np

from xmas.data.pool import Pool
from xmas.features.losses.answers import Answers
from xmas.selection.protocol import Ranked
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class El2n:
    """Highest EL2N first, the mean over a row's answer tokens; ties by row.

    Text-only rows are ranked with the others.

    Source: EL2N (arXiv 2107.07075), there early in training and averaged over ten fits. Deviations:
    as in COINCIDE's baseline it comes from one model after its last step; that baseline computes in
    float16 and puts 0 for a value that is not finite, which here stops the run. Which end of the
    order it trained on is not in its repository; this is the end of EL2N's own paper.
    """

    answers: Answers

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        scores = self.answers.column(store, "el2n")
        order = np.argsort(-scores, kind="stable")  # NaN, a row without an answer, comes last
        return Ranked(order, scores, np.full(len(scores), -1))
