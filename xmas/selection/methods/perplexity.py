"""Perplexity: the rows around the median first, neither already learnt nor noise."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from xmas.data.pool import Pool
from xmas.features.losses.answers import Answers
from xmas.selection.protocol import Ranked
from xmas.store import Store


def middle_first(values: Float[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """Rows from the median outwards: every prefix is a central band of the sorted values.

    Of two rows at the same distance in rank the lower value comes first; equal values by row; NaN
    last.
    """
    ascending = np.argsort(values, kind="stable")
    count = int((~np.isnan(values)).sum())
    far = np.abs(np.arange(count) - (count - 1) / 2)
    return np.r_[ascending[:count][np.argsort(far, kind="stable")], ascending[count:]]


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """The central band of perplexity, exp of the mean loss of a row's answer tokens.

    The band is that of all rows, text-only ones included.

    Source: middle perplexity (arXiv 2309.04564), there of whole documents; MP in XMAS (arXiv
    2510.01454). Deviation: MP is of the target after a fit on all rows, which
    `selector.answers=${features.target_answers}` gives at the cost of that fit; the default is the
    proxy.
    """

    answers: Answers

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        losses = self.answers.column(store, "loss")
        return Ranked(middle_first(losses), np.exp(losses), np.full(len(losses), -1))
