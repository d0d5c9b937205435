"""Quality plus diversity: a judge's rating, and how unlike all chosen rows a row is."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from xmas.data.pool import Pool
from xmas.features.clip.embedded import unit
from xmas.selection.protocol import CheckedSelector, Ranked, Selector
from xmas.selection.rules.best_first import best_first
from xmas.selection.rules.lazy_greedy import projected, quality_and_diversity
from xmas.store import Stage, Store


@dataclasses.dataclass(frozen=True)
class QualityDiversity:
    """Greedy: the row with the largest quality + diversity first, given the rows already chosen.

    Quality is (rating - lowest) / (highest - lowest): of ratings from 1 to 5 0, .25, .5, .75 or 1.
    Diversity is 1 - max(0, largest cosine with a chosen row) of the features, centred on their
    mean; so the first row is one of the best. The order is the greedy one exactly, see
    `rules.lazy_greedy`. Rows without rating or feature follow in random order.

    Source: Data-DPO (arXiv 2608.16926), its quality and diversity without its reward, of which a
    formula is missing. There a VLM rates and embeds; here ratings are a column of the pool or of a
    file, embeddings any feature. Ours: `project`, `greedy` and the order of the rest.

    Args:
        quality: whose scores are the ratings; high is good.
        features: with `values.npy` (rows, d), NaN on rows without it.
        lowest, highest: of the ratings' scale.
        greedy: the share of the rows that is chosen greedily; the others follow by what each would
            add then. Time grows with it: 1.0 is exact at every budget.
        project: dimensions of a random projection of the features, drawn from the seed; null: none.
    """

    quality: Selector
    features: Stage
    lowest: float = 1.0
    highest: float = 5.0
    greedy: float = 1.0
    project: int | None = None

    def __post_init__(self) -> None:
        if not self.lowest < self.highest:
            raise ValueError(
                f"selector.lowest={self.lowest} is not below selector.highest={self.highest}; give "
                "the ends of the rating scale"
            )
        if not 0 < self.greedy <= 1:
            raise ValueError(f"selector.greedy={self.greedy} is not within (0, 1]; give a share")
        if self.project is not None and self.project < 1:
            raise ValueError(f"selector.project={self.project}: give dimensions from 1 up, or null")

    def check(self, pool: Pool, store: Store) -> None:
        """Raises ValueError: as the check of `quality`."""
        if isinstance(self.quality, CheckedSelector):
            self.quality.check(pool, store)

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        """Raises ValueError: a rating is outside the scale; names row and setting."""
        ratings = self.quality.rank(pool, rng, store).scores
        self._check_scale(pool, store, ratings)
        quality = (ratings - self.lowest) / (self.highest - self.lowest)
        rows, points = self._points(store, ratings, rng)
        scores = np.full(len(ratings), np.nan)
        count = max(1, round(self.greedy * len(rows))) if len(rows) else 0
        chosen, scores[rows] = quality_and_diversity(quality[rows], points, count)
        rest = best_first(scores, rng)
        is_chosen = np.zeros(len(scores), dtype=bool)
        is_chosen[rows[chosen]] = True
        order = np.concatenate([rows[chosen], rest[~is_chosen[rest]]])
        return Ranked(order, scores, np.full(len(scores), -1))

    def _points(
        self, store: Store, ratings: Float[np.ndarray, " rows"], rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, " _"], Float[np.ndarray, "_ d"]]:
        """The rows with rating and feature, and their features as centred unit vectors."""
        values = np.load(store.get(self.features) / "values.npy", mmap_mode="r")
        rows = np.flatnonzero(np.isfinite(values[:, 0]) & ~np.isnan(ratings))
        points = values[rows].astype(np.float32)
        if len(points):
            points -= points.mean(axis=0, dtype=np.float64).astype(np.float32)
        if self.project is not None:
            points = projected(points, self.project, rng)
        return rows, np.nan_to_num(unit(points))  # the mean itself has no direction

    def _check_scale(self, pool: Pool, store: Store, ratings: Float[np.ndarray, " rows"]) -> None:
        outside = np.flatnonzero((ratings < self.lowest) | (ratings > self.highest))
        if len(outside):
            rows, row = pool.open(store), int(outside[0])
            raise ValueError(
                f"{rows.annotations}: row {rows.file_row(row)} is rated {ratings[row]:g}, outside "
                f"{self.lowest:g} to {self.highest:g}, and so are {len(outside)} rows; set "
                "selector.lowest and selector.highest to the ends of the scale"
            )
