"""DICS: rows whose image, question and answer fit together, and which are far from each other."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from xmas.data.pool import Pool
from xmas.features.losses.answers import Answers
from xmas.features.losses.consistency import RIC, VIC, Consistency
from xmas.selection.rules.lazy_greedy import farthest_points, projected
from xmas.store import Stage, Store

PARTS = ("both", "vic", "ric")


@dataclasses.dataclass(frozen=True)
class Split:
    """Which of the rows, best first, are chosen by score, and from which the others are.

    Attributes:
        best: rows chosen by their score.
        offered: the rows after them from which farthest-point sampling chooses `spread`.
    """

    best: int
    offered: int
    spread: int


def split(rows: int, budget: int) -> Split:
    """How DICS divides a budget of n rows: up to a half, twice the budget is offered and half of
    that chosen far from each other; over a half, the 2k - n best are chosen and half of the rest.

    >>> from xmas.selection.methods.dics import split
    >>> split(10, 3), split(10, 7)
    (Split(best=0, offered=6, spread=3), Split(best=4, offered=6, spread=3))
    """
    if 2 * budget == rows:
        return Split(budget, 0, 0)
    if 2 * budget < rows:
        return Split(0, 2 * budget, budget)
    return Split(2 * budget - rows, 2 * (rows - budget), rows - budget)


@dataclasses.dataclass(frozen=True)
class Dics:
    """The smaller of VIC and RIC, then diversity by farthest-point sampling; a `BudgetSelector`.

    Not nested: of twice as many rows as the budget the farthest are chosen, and a larger budget
    offers other rows. At half of the pool the best are chosen, without diversity.

    Source: DICS (arXiv 2608.30209), sections 3 and 4: k = p n rows. VIC and RIC: `Consistency`. The
    largest norm is chosen first, then the largest Euclidean distance to the chosen rows. Text-only
    rows have the score 1.0. Deviations: they take part with `text_rows` and
    `subset.text_only=ranked` only (`variant=dics_published`), since by default the subset's policy
    decides on them, and n is then the number of rows with an image; `project` is ours.

    `parts=vic` needs no questions' losses: VIC is exp(blind_loss - loss) of `answers`, the mean
    over a row's tokens instead of its turns, so that passes that `necessity` uses serve it.

    Args:
        features: the last hidden state of a row's last token, not scaled; any stage that writes
            `values.npy` (rows, d).
        consistency: of `both` and `ric`.
        answers: of `vic`.
        parts: `both`, their minimum; `vic` or `ric`, one alone.
        project: dimensions of a random projection of the features, drawn from the seed; None: none.
        text_rows: whether text-only rows take part.
    """

    features: Stage
    consistency: Consistency | None = None
    answers: Answers | None = None
    parts: str = "both"
    project: int | None = None
    text_rows: bool = False

    def __post_init__(self) -> None:
        if self.parts not in PARTS:
            raise ValueError(f"selector.parts={self.parts!r}: expected one of {', '.join(PARTS)}")
        needed, other = ("answers", "consistency")[:: 1 if self.parts == "vic" else -1]
        if getattr(self, needed) is None:
            raise ValueError(f"selector.parts={self.parts} needs selector.{needed}; set it")
        object.__setattr__(self, other, None)  # no part of the result

    def select(
        self, pool: Pool, budget: int, rng: np.random.Generator, store: Store
    ) -> Int[np.ndarray, " budget"]:
        """Raises ValueError: fewer rows than `budget` take part."""
        has_image = pool.open(store).has_image
        rows = np.arange(len(has_image)) if self.text_rows else np.flatnonzero(has_image)
        if budget > len(rows):
            raise ValueError(
                f"a budget of {budget} rows exceeds the {len(rows)} that take part, of "
                f"{len(has_image)}; lower it, or set selector.text_rows=true with "
                "subset.text_only=ranked"
            )
        scores = np.where(has_image, self.scores(store), 1.0)[rows]
        preferred = rows[np.argsort(-scores, kind="stable")]  # NaN last
        division = split(len(rows), budget)
        best, offered, _ = np.split(preferred, [division.best, division.best + division.offered])
        values = np.load(store.get(self.features) / "values.npy", mmap_mode="r")
        offered = np.sort(offered)  # ties of distances go to the lower row
        points = values[offered].astype(np.float32)
        if self.project is not None:
            points = projected(points, self.project, rng)
        return np.concatenate([best, offered[farthest_points(points, division.spread)]])

    def scores(self, store: Store) -> Float[np.ndarray, " rows"]:
        """VIC, RIC or the smaller of them of every row; NaN where it has none."""
        if self.answers is not None:
            gain = self.answers.column(store, "blind_loss") - self.answers.column(store, "loss")
            return np.exp(gain)
        assert self.consistency is not None
        values = np.load(store.get(self.consistency) / "values.npy").astype(np.float64)
        if self.parts == "ric":
            return values[:, RIC]
        return np.minimum(values[:, VIC], values[:, RIC])  # NaN where one is
