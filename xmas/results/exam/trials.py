"""The rankings that an exam compares: those of one selector, and of its variations."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xmas.data.planted.planted_pool import PlantedPool
from xmas.data.pool import Pool
from xmas.data.pool_sample import PoolSample
from xmas.models.start_point import StartPoint
from xmas.results.exam.variations import (
    fits_of,
    on_pool,
    remedies_of,
    with_fit_seed,
    with_other_seeds,
    with_start,
)
from xmas.selection.protocol import BudgetSelector, Selector
from xmas.selection.ranking import Ranking


@dataclasses.dataclass(frozen=True)
class Trials:
    """Rankings of one selector.

    Attributes:
        plain: as it is configured.
        learns: whether it needs a fit on the pool.
        varied: rankings of the whole pool by what differs between them; the first is `plain`,
            except under `proxy seeds`.
        parts: rankings of a part of the pool, by the part.
        planted: rankings of planted pools.
        remedies: rankings under several proxy seeds each, by what was changed.
    """

    plain: Ranking
    learns: bool
    varied: Mapping[str, Sequence[Ranking]]
    parts: Sequence[tuple[PoolSample, Ranking]]
    planted: Sequence[tuple[PlantedPool, Ranking]]
    remedies: Mapping[str, Sequence[Ranking]]

    def rankings(self) -> Iterator[Ranking]:
        """All of them."""
        yield self.plain
        for group in (*self.varied.values(), *self.remedies.values()):
            yield from group
        for _, ranking in (*self.parts, *self.planted):
            yield ranking


def trials_of(
    selector: Selector | BudgetSelector,
    pool: Pool,
    *,
    seeds: Sequence[int],
    fit_seeds: Sequence[int],
    starts: Mapping[str, StartPoint],
    parts: Sequence[PoolSample],
    planted: Sequence[PlantedPool],
    remedies: int | None,
) -> Trials:
    """What has to be ranked to examine a selector of `pool`.

    Args:
        seeds: of the ranking, the first that of everything that does not vary it; each planted pool
            is ranked with the seed at its place.
        fit_seeds: of what is trained on the pool; a selector that learns is examined on as many
            planted pools, each with another one.
        starts: further start points of its proxy.
        remedies: over how many proxies trajectories are averaged; None: no remedy is tried.
    """
    plain = Ranking(pool, selector, seeds[0])
    learns = bool(fits_of(plain))
    varied = {"ranking seeds": [Ranking(pool, selector, seed) for seed in seeds]}

    def ranked(others: Sequence[Any]) -> list[Ranking]:
        return [Ranking(pool, other, seeds[0]) for other in others]

    if with_other_seeds(selector, 1) != selector:
        shifts = range(len(fit_seeds))
        varied["other seeds"] = ranked([with_other_seeds(selector, shift) for shift in shifts])
    if learns:
        varied["proxy seeds"] = ranked([with_fit_seed(selector, seed) for seed in fit_seeds])
        others = [with_start(selector, start) for start in starts.values()]
        if others and others[0] != selector:
            varied["start points"] = ranked([selector, *others])
    of_parts = [
        (part, Ranking(part.as_pool(), on_pool(selector, pool, part.as_pool()), seeds[0]))
        for part in parts
    ]
    of_planted = []
    for place, stage in enumerate(planted[: len(fit_seeds)] if learns else planted):
        other = with_fit_seed(selector, fit_seeds[place]) if learns else selector
        on_planted = on_pool(other, pool, stage.as_pool())
        of_planted.append((stage, Ranking(stage.as_pool(), on_planted, seeds[place])))
    changes = remedies_of(selector, proxies=remedies) if learns and remedies else {}
    return Trials(
        plain,
        learns,
        varied,
        of_parts,
        of_planted,
        {
            name: ranked([change(selector, seed) for seed in fit_seeds])
            for name, change in changes.items()
        },
    )
