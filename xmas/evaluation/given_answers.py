"""Benchmarks that are scored from a model's probabilities of answers that are given.

The other benchmarks generate answers and score their texts, see `xmas.evaluation.protocol`.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from xmas.data.pool import Pool
from xmas.evaluation.protocol import Scored
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class GivenAnswers:
    """All answers of some rows, row after row, an element each.

    Attributes:
        row: that has the answer, ascending.
        tokens: of the answer, its end mark included.
        short: complete and of up to five words on one line.
        loss: cross-entropy summed over the tokens, in nats.
        right: tokens that are the model's first choice after the tokens before them.
    """

    row: Int[np.ndarray, " answers"]
    tokens: Int[np.ndarray, " answers"]
    short: Bool[np.ndarray, " answers"]
    loss: Float[np.ndarray, " answers"]
    right: Int[np.ndarray, " answers"]


@runtime_checkable
class OfGivenAnswers(Protocol):
    """A benchmark of the answers that some rows have; also a `Benchmark`."""

    def scored_rows(self) -> Pool:
        """The rows whose answers are scored."""
        ...

    def score_given(self, answers: GivenAnswers, store: Store) -> Scored:
        """The score of all answers of the rows that a target's `max_length` does not cut off."""
        ...
