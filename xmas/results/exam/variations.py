"""The same selector on another pool, with other seeds, another start point, a longer fit.

A selector contains all that it is computed from, so a variation is the same tree with some parts
replaced. Start points and frozen encoders stay as they are: they are what is given, not what a
selector does.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from xmas.data.pool import Pool
from xmas.features.averaged import AveragedTrajectories
from xmas.features.clip.clip import ClipEmbeddings
from xmas.features.clustering.kmeans import Clusters
from xmas.features.trajectories import Trajectories
from xmas.models.start_point import StartPoint
from xmas.selection.ranking import Ranking
from xmas.store import Stage
from xmas.store.planned_stages import planned_stages
from xmas.training.proxy import Proxy

Change = Callable[[Any], Any]


def replaced(value: Any, change: Change) -> Any:
    """A value with `change` applied to every dataclass in it, inner ones first.

    Pools are passed to `change` whole; nothing inside them is changed.
    """
    if isinstance(value, StartPoint):
        return value
    if isinstance(value, dict):
        return {name: replaced(part, change) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(replaced(part, change) for part in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    if not isinstance(value, Pool):
        others = {
            field.name: other
            for field in dataclasses.fields(value)
            if field.init and not (isinstance(value, ClipEmbeddings) and field.name == "clip")
            if (other := replaced(part := getattr(value, field.name), change)) != part
        }
        value = dataclasses.replace(value, **others) if others else value
    return change(value)


def on_pool(value: Any, pool: Pool, other: Pool) -> Any:
    """The same on another pool."""
    return replaced(value, lambda part: other if isinstance(part, Pool) and part == pool else part)


def is_fit(part: Any) -> bool:
    """Whether a stage trains a model by a recipe, from a seed."""
    names = {field.name for field in dataclasses.fields(part)}
    return isinstance(part, Stage) and {"recipe", "seed"} <= names


def with_fit_seed(value: Any, seed: int) -> Any:
    """The same with another seed of every fit: batches are in another order."""
    return replaced(
        value, lambda part: dataclasses.replace(part, seed=seed) if is_fit(part) else part
    )


def with_other_seeds(value: Any, shift: int) -> Any:
    """The same with other seeds of what else is drawn at random: k-means, a classifier."""

    def change(part: Any) -> Any:
        if isinstance(part, Pool | Ranking) or is_fit(part):
            return part
        seed = getattr(part, "seed", None)
        if type(seed) is not int or "seed" not in {
            field.name for field in dataclasses.fields(part)
        }:
            return part
        return dataclasses.replace(part, seed=seed + shift)

    return replaced(value, change)


def with_start(value: Any, start: StartPoint) -> Any:
    """The same with the proxy fitted from another start point."""
    return replaced(
        value,
        lambda part: dataclasses.replace(part, start=start) if isinstance(part, Proxy) else part,
    )


def fits_of(ranking: Ranking) -> list[Stage]:
    """The fits that a ranking needs, without those of start points."""
    stages = ranking.inputs() if isinstance(ranking, Stage) else []
    every = [stage for needed in stages for stage in planned_stages(needed)]
    return [stage for stage in every if is_fit(stage) and not isinstance(stage, StartPoint)]


def remedies_of(value: Any, *, proxies: int) -> dict[str, Callable[[Any, int], Any]]:
    """What may make a selector that learns more stable, by name, where it changes anything.

    Each is a function of the selector and a seed, so that its stability can be measured too.

    Args:
        proxies: over how many of them trajectories are averaged.
    """

    def snapshots(part: Any) -> Any:
        if not isinstance(part, Proxy):
            return part
        return dataclasses.replace(part, snapshots=2 * part.snapshots)

    def longer(part: Any) -> Any:
        if not isinstance(part, Proxy):
            return part
        recipe = dataclasses.replace(part.recipe, epochs=2 * part.recipe.epochs)
        return dataclasses.replace(part, recipe=recipe)

    def reduction(part: Any) -> Any:
        if not isinstance(part, Clusters) or not isinstance(part.features, Trajectories):
            return part
        other = "vector" if part.reduction != "vector" else "sum"
        return dataclasses.replace(part, reduction=other)

    def averaged(seed: int) -> Change:
        def change(part: Any) -> Any:
            if not isinstance(part, Trajectories) or isinstance(part, AveragedTrajectories):
                return part
            several = [with_fit_seed(part, seed * proxies + number) for number in range(proxies)]
            return AveragedTrajectories.of(several)

        return change

    changes: dict[str, Callable[[Any, int], Any]] = {
        "twice the snapshots": lambda one, seed: replaced(with_fit_seed(one, seed), snapshots),
        "twice the epochs": lambda one, seed: replaced(with_fit_seed(one, seed), longer),
        "another reduction": lambda one, seed: replaced(with_fit_seed(one, seed), reduction),
        f"trajectories of {proxies} proxies": lambda one, seed: replaced(one, averaged(seed)),
    }
    return {
        name: change
        for name, change in changes.items()
        if change(value, 0) != with_fit_seed(value, 0)
    }
