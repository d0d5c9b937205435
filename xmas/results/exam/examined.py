"""The marks of one selector, measured on its trials."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from xmas.data.planted.planting import CLEAN, COPIES, KINDS
from xmas.data.pool_sample import PoolSample
from xmas.data.rows import Rows
from xmas.results.exam.marks import (
    COVERAGE,
    LENGTH,
    PLANTED,
    REMEDY,
    STABILITY,
    Mark,
    mean_of,
    over_measurements,
)
from xmas.results.exam.measures import (
    copies_kept,
    correlation,
    groups_covered,
    in_common,
    mix_moved,
    nearest_alike,
)
from xmas.results.exam.trials import Trials
from xmas.selection.budget import budget_of, cut
from xmas.selection.protocol import BudgetSelector
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Store
from xmas.store.variance_explained import explained


@dataclasses.dataclass(frozen=True)
class Measured:
    """What is known of the pool that all selectors are examined on.

    Attributes:
        rows: of the pool.
        lengths: of every row.
        clusters: of every row, of vectors that no selector uses.
        vectors: these, of length 1.
    """

    rows: Rows
    lengths: Int[np.ndarray, " rows"]
    clusters: Int[np.ndarray, " rows"]
    vectors: Float[np.ndarray, "rows d"]


def subset_of(ranking: Ranking, fraction: float, text_only: str) -> Subset:
    return Subset(ranking, fraction=fraction, text_only=text_only)


@dataclasses.dataclass(frozen=True)
class Examiner:
    """Measures a selector's trials.

    Args:
        name: of the selector.
        text_only: the policy of its subsets.
    """

    name: str
    trials: Trials
    fractions: Sequence[float]
    text_only: str
    store: Store
    measured: Measured

    def marks(self) -> Iterator[Mark]:
        """All of them; stability comes first."""
        for fraction in self.fractions:
            for what, rankings in self.trials.varied.items():
                yield self._stability(STABILITY, what, fraction, rankings)
            for part, ranking in self.trials.parts:
                yield self._of_part(part, fraction, ranking)
            for what, rankings in self.trials.remedies.items():
                yield self._stability(REMEDY, what, fraction, rankings)
        for fraction in self.fractions:
            yield from self._planted(fraction)
        for fraction in self.fractions:
            yield from self._coverage(fraction)
        yield from self._length()

    def chosen(self, ranking: Ranking, fraction: float) -> Int[np.ndarray, " chosen"]:
        """The rows of a subset; a ranking is cut here, without the files of a subset."""
        if isinstance(ranking.selector, BudgetSelector):
            return subset_of(ranking, fraction, self.text_only).chosen(self.store)
        examples = ranking.pool.open(self.store)
        order = np.load(self.store.get(ranking) / "order.npy")
        budget = budget_of(len(examples), fraction=fraction, rows=None)
        return cut(order, budget, has_image=examples.has_image, text_only=self.text_only)

    def _strata(self, examples: Rows) -> Int[np.ndarray, " rows"]:
        """Rows with and without an image, where the policy sets how many of each there are."""
        fixed = self.text_only != "ranked"
        return examples.has_image.astype(np.int64) if fixed else np.zeros(len(examples), np.int64)

    def _stability(
        self, part: str, what: str, fraction: float, rankings: Sequence[Ranking]
    ) -> Mark:
        """The share of rows in common, of all pairs of subsets."""
        subsets = [self.chosen(ranking, fraction) for ranking in rankings]
        strata = self._strata(self.measured.rows)
        pairs = [in_common(*pair, strata) for pair in itertools.combinations(subsets, 2)]
        shares, chances = (np.array(of) for of in zip(*pairs, strict=True))
        bounds = (float(shares.min()), float(shares.max()))
        return Mark(
            *(self.name, fraction, part, what, float(shares.mean()), *bounds),
            chance=float(chances.mean()),
            count=len(pairs),
        )

    def _of_part(self, part: PoolSample, fraction: float, ranking: Ranking) -> Mark:
        """The share of rows in common with the part's own subset, among the part's rows."""
        whole = self.chosen(self.trials.plain, fraction)
        numbers = part.rows(self.store)
        own = numbers[self.chosen(ranking, fraction)]
        among = np.zeros(len(self.measured.rows), dtype=bool)
        among[numbers] = True
        share, chance = in_common(whole, own, self._strata(self.measured.rows), among)
        name = f"{100 * (1 - part.share):g} % left out"
        return Mark(self.name, fraction, STABILITY, name, share, chance=chance)

    def _planted(self, fraction: float) -> Iterator[Mark]:
        kept: dict[str, list[tuple[float, float]]] = {}
        for stage, ranking in self.trials.planted:
            plan = stage.plan(self.store)
            chosen = _mask(self.chosen(ranking, fraction), len(plan.kinds))
            clean = chosen[(plan.kinds == CLEAN) & plan.comparable].mean()
            for kind in np.unique(plan.kinds[plan.kinds > 1]).tolist():
                of_kind = plan.kinds == kind
                if kind in COPIES:
                    groups = np.where(np.isin(plan.groups, plan.groups[of_kind]), plan.groups, -1)
                    share = copies_kept(groups, chosen)
                else:
                    share = float(chosen[of_kind].mean())
                kept.setdefault(KINDS[kind], []).append((share, float(clean)))
        for name, pairs in kept.items():
            ratios = [share / clean if clean else float("nan") for share, clean in pairs]
            value, low, high, count = over_measurements(ratios, name=f"{self.name} {name}")
            shares, chances = (mean_of(of) for of in zip(*pairs, strict=True))
            yield Mark(
                *(self.name, fraction, PLANTED, name, value, low, high),
                chance=chances,
                share=shares,
                count=count,
            )

    def _coverage(self, fraction: float) -> Iterator[Mark]:
        measured, rows = self.measured, self.chosen(self.trials.plain, fraction)
        chosen = _mask(rows, len(measured.rows))
        mark = functools.partial(Mark, self.name, fraction, COVERAGE)
        for name, labels in (
            ("sources", measured.rows.index.source),
            ("clusters", measured.clusters),
        ):
            share, chance = groups_covered(np.asarray(labels), chosen)
            yield mark(name, share, chance=chance)
        sources = np.asarray(measured.rows.index.source)
        rng = np.random.default_rng(0)
        random = np.sort(rng.permutation(len(chosen))[: len(rows)])
        by_chance = mix_moved(sources, _mask(random, len(chosen)))
        yield mark("mix of sources moved", mix_moved(sources, chosen), chance=by_chance)
        alike = nearest_alike(measured.vectors, rows, np.random.default_rng(0))
        of_random = nearest_alike(measured.vectors, random, np.random.default_rng(0))
        yield mark("likeness to the nearest", alike, chance=of_random)

    def _length(self) -> Iterator[Mark]:
        """What length explains of the scores, of the order, and of the order among padded rows."""
        if isinstance(self.trials.plain.selector, BudgetSelector):
            return
        mark = functools.partial(Mark, self.name, None, LENGTH)
        ranked = Ranking.read(self.store.get(self.trials.plain))
        lengths = self.measured.lengths
        finite = np.isfinite(ranked.scores)
        if finite.any():
            scores = ranked.scores[finite].astype(np.float64)
            share = explained(scores, lengths[finite])
            if share is not None:
                yield mark("R2 of the score", share, chance=0.0)
        places = places_of(ranked.order)
        share = explained(places, lengths)
        if share is not None:
            yield mark("R2 of the place", share, chance=0.0)
        yield mark("rank correlation", correlation(-places, lengths.astype(np.float64)), chance=0.0)


def places_of(order: Int[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """The place of every row in an order, from 0."""
    places = np.empty(len(order), dtype=np.float64)
    places[order] = np.arange(len(order))
    return places


def _mask(rows: Int[np.ndarray, " chosen"], count: int) -> Bool[np.ndarray, " rows"]:
    chosen = np.zeros(count, dtype=bool)
    chosen[rows] = True
    return chosen
