"""Perplexity: the rows around the middle first, neither known nor noise."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from xmas.data.pool import Pool
from xmas.features.losses.answers import Answers
from xmas.selection.protocol import Ranked
from xmas.store import Store


def middle_first(values: Float[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """Rows from the median outwards, so that every prefix is a central band of the sorted values.

    Of two as far from it in rank the lower comes first; equal values are sorted by row; NaN last.
    """
    ascending = np.argsort(values, kind="stable")
    known = int((~np.isnan(values)).sum())
    far = np.abs(np.arange(known) - (known - 1) / 2)
    return np.r_[ascending[:known][np.argsort(far, kind="stable")], ascending[known:]]


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """The central band of perplexity, exp of the mean loss of a row's answer tokens.

    The band is that of all rows, text-only ones among them. XMAS's comparison (MP) asks the target
    after a fit on all rows: `selector.answers=${features.target_answers}`, which costs that fit;
    the default asks the proxy.
    Source: middle perplexity (arXiv 2309.04564), there of whole documents; MP in XMAS (arXiv
    2510.01454).
    """

    answers: Answers

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        losses = self.answers.column(store, "loss")
        return Ranked(middle_first(losses), np.exp(losses), np.full(len(losses), -1))
