"""Guarded cover: rows far from one another first, those that do not fit their picture last."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from xmas.data.pool import Pool
from xmas.features.clip.embedded import unit
from xmas.selection.methods.presel import in_proportion
from xmas.selection.methods.semdedup import members
from xmas.selection.protocol import CheckedSelector, Ranked, Selector
from xmas.selection.rules.lazy_greedy import farthest_points, projected
from xmas.store import Stage, Store


@dataclasses.dataclass(frozen=True)
class GuardedCover:
    """Every source in its share of the pool; inside it three parts, one after the other.

    1. `coverage`: the other rows in farthest-point order of their features, the row farthest from
       their mean first; without it in random order.
    2. `necessity`: this share of the rows, those with the lowest `need`, the best of them first.
    3. `guard`: this share, those with the lowest `fit`, the best of them first. A row may be among
       both shares, and is then here.

    Shares are rounded; of equal scores the higher row is the lower one, a row without a score is
    the lowest. With `mix` the j-th of n rows of a source is placed at (j - 1/2) / n; of equal
    places the larger source is first. Minus the place is a row's score. Rows without an image or
    a feature follow in random order; random orders do not depend on the switches.

    Source: this package's own. Coverage drops copies, but prefers answers and pictures that do not
    belong, which are far from all others; the two shares drop these. By default images and
    questions are covered, not answers, and the guard scores the whole text, since the question
    tells wrong pictures: both were decided on planted rows of the exam, the shares beforehand.
    That it trains a better model is not shown: in experiments/study no selector differs from
    `random` after correction for the comparisons. So it is in no default.

    Args:
        features: with `values.npy` (rows, d), NaN on rows without it; for `coverage`.
        fit: whose scores the `guard` reads, high fits.
        need: whose scores `necessity` reads, high needs the picture.
        guard, necessity: shares of the rows of every source; None: no such part.
        coverage: false: `features` are not needed.
        mix: false: all rows are as of one source, and in one order.
        project: dimensions of a random projection of the features, drawn from the seed; None: none.
    """

    features: Stage | None = None
    fit: Selector | None = None
    need: Selector | None = None
    guard: float | None = 0.1
    necessity: float | None = 0.25
    coverage: bool = True
    mix: bool = True
    project: int | None = None

    def __post_init__(self) -> None:
        for part, reads in (("guard", "fit"), ("necessity", "need"), ("coverage", "features")):
            setting = getattr(self, part)
            if setting is None or setting is False:
                object.__setattr__(self, reads, None)  # no part of the result
            elif getattr(self, reads) is None:
                raise ValueError(f"selector.{part}={setting} needs selector.{reads}; set it")
        for part in ("guard", "necessity"):
            share = getattr(self, part)
            if share is not None and not 0 < share < 1:
                raise ValueError(
                    f"selector.{part}={share} is not within 0 and 1; give a share, or null for none"
                )
        if self.project is not None and self.project < 1:
            raise ValueError(f"selector.project={self.project}: give dimensions from 1 up, or null")

    def check(self, pool: Pool, store: Store) -> None:
        """Raises ValueError: as the checks of `fit` and `need`."""
        for scorer in (self.fit, self.need):
            if isinstance(scorer, CheckedSelector):
                scorer.check(pool, store)

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        examples = pool.open(store)
        shuffled = rng.permutation(len(examples))  # first: the same with every switch
        fit, need = (
            None if scorer is None else scorer.rank(pool, rng, store).scores
            for scorer in (self.fit, self.need)
        )
        takes_part = examples.has_image.copy()
        values = None
        if self.features is not None:
            values = np.load(store.get(self.features) / "values.npy", mmap_mode="r")
            takes_part &= np.isfinite(values[:, 0])
        source = np.full(len(examples), -1)
        if self.mix:
            source[:] = examples.index.source[:]
        candidates = shuffled[takes_part[shuffled]]
        queues = []
        for positions in members(source[candidates]):
            rows = candidates[positions]  # in random order
            misfits = lowest(rows, fit, self.guard)
            needless = lowest(rows, need, self.necessity)
            needless = needless[~np.isin(needless, misfits)]
            others = rows[~np.isin(rows, np.concatenate([needless, misfits]))]
            if values is not None:
                others = self._spread(np.sort(others), values, rng)
            queues.append(np.concatenate([others, needless, misfits]))
        queues.sort(key=len, reverse=True)
        scores = np.full(len(examples), np.nan)
        for queue in queues:
            scores[queue] = -(np.arange(len(queue)) + 0.5) / len(queue)
        order = in_proportion(queues, np.array([len(queue) for queue in queues], dtype=float))
        return Ranked(np.concatenate([order, shuffled[~takes_part[shuffled]]]), scores, source)

    def _spread(
        self,
        rows: Int[np.ndarray, " rows"],
        values: Float[np.ndarray, "pool d"],
        rng: np.random.Generator,
    ) -> Int[np.ndarray, " rows"]:
        """The rows in farthest-point order; the largest norm, which is the first, is that around
        their mean.
        """
        if not len(rows):
            return rows
        points = np.nan_to_num(unit(values[rows].astype(np.float32)))
        if self.project is not None:
            points = projected(points, self.project, rng)
        points -= points.mean(axis=0, dtype=np.float64).astype(np.float32)
        return rows[farthest_points(points, len(rows))]


def lowest(
    rows: Int[np.ndarray, " rows"],
    scores: Float[np.ndarray, " pool"] | None,
    share: float | None,
) -> Int[np.ndarray, " lowest"]:
    """This share of the rows, rounded: those with the lowest scores, the best of them first.

    Of equal scores the higher row is the lower one; a row without a score (NaN) is the lowest.
    """
    if scores is None or share is None:
        return rows[:0]
    rows = np.sort(rows)
    best = rows[np.argsort(-scores[rows], kind="stable")]
    return best[len(best) - round(share * len(best)) :]
