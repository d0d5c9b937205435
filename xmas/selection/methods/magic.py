"""MAGIC: rows whose answers need and attend to the image, spread over the neurons they activate."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int

from xmas.data.pool import Pool
from xmas.features.answer_layers import AnswerLayers
from xmas.features.losses.answers import Answers
from xmas.selection.rules.buckets import best_of_buckets, robust
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class Magic:
    """Gain, bridging relevance and neuron signatures of one model; a `BudgetSelector`.

    The rows with the largest gain, loss without the image minus loss with it, are eligible. Their
    quality is a weighted sum of normalised gain and bridging relevance, the mean over layers of
    `AnswerLayers.bridging`. Twice the budget of the best share it by buckets of equal neurons, see
    `best_of_buckets`.

    Not nested: the budget sets the candidates, their masses and with them every quota.

    Source: MAGIC (arXiv 2605.26004), sections 3.3, 3.4 and A.3, whose constants are the defaults.
    Not stated there, ours: the normalisation, `robust`, over all rows with a value; text-only rows
    and rows without an answer are never chosen, and the subset's policy adds text-only ones; where
    the budget is more than the eligible rows, as many as the budget are eligible. Where the paper
    scores with TinyLLaVA-2B (section 4), here it is the target before its fit on instructions, as
    in its appendix A.3.
    """

    answers: Answers
    layers: AnswerLayers
    eligible: float = 0.6  # fraction of the rows, by gain
    gain_share: float = 0.5  # weight of the gain in the quality; the rest is bridging's
    candidates: float = 2.0  # times the budget
    temperature: float = 0.2  # of the quality, in the masses of buckets
    cap: float = 0.05  # fraction of the budget that one bucket has at most

    def __post_init__(self) -> None:
        """Raises ValueError: a fraction, a weight or the temperature is out of its range."""
        for name in ("eligible", "cap"):
            if not 0 < (value := getattr(self, name)) <= 1:
                raise ValueError(f"selector.{name}={value} is not within (0, 1]")
        if not 0 <= self.gain_share <= 1:
            raise ValueError(f"selector.gain_share={self.gain_share} is not within [0, 1]")
        if self.candidates < 1:
            raise ValueError(
                f"selector.candidates={self.candidates}: at least the budget, so 1 or more"
            )
        if self.temperature <= 0:
            raise ValueError(f"selector.temperature={self.temperature} is not above 0")

    def select(
        self, pool: Pool, budget: int, rng: np.random.Generator, store: Store
    ) -> Int[np.ndarray, " budget"]:
        """Raises ValueError: fewer rows than `budget` have an image and an answer."""
        folder = store.get(self.layers)
        bridging = np.load(folder / "bridging.npy").mean(axis=1, dtype=np.float64)
        signatures = np.load(folder / "neurons.npy", mmap_mode="r")
        gain = self.answers.column(store, "blind_loss") - self.answers.column(store, "loss")
        rows = np.flatnonzero(~np.isnan(bridging) & ~np.isnan(gain))
        if budget > len(rows):
            raise ValueError(
                f"a budget of {budget} image rows exceeds the {len(rows)} that have an image and "
                f"an answer, of {len(gain)} rows"
            )
        return rows[self.chosen(gain[rows], bridging[rows], signatures[rows], budget)]

    def chosen(
        self,
        gain: Float[np.ndarray, " rows"],
        bridging: Float[np.ndarray, " rows"],
        signatures: Int[np.ndarray, "rows neurons"],
        budget: int,
    ) -> Int[np.ndarray, " budget"]:
        """Positions of the chosen rows, ascending, by the three signals of all rows."""
        quality = self.gain_share * robust(gain) + (1 - self.gain_share) * robust(bridging)
        count = max(budget, math.ceil(self.eligible * len(gain)))
        eligible = np.sort(np.argsort(-gain, kind="stable")[:count])
        best = best_of_buckets(
            quality[eligible],
            signatures[eligible],
            budget,
            candidates=math.ceil(self.candidates * budget),
            temperature=self.temperature,
            cap=self.cap,
        )
        return eligible[best]
