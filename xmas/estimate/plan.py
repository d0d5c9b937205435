"""Which stages a goal will ask for, in the order they run.

Most of a stage's history is in its fields; what `compute` asks for beyond them, or has in a field
and does not use, is said here for each stage that does so.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

from xmas.evaluation.scores import Score, Scores
from xmas.models.vision_cache import image_stage
from xmas.selection.methods.length import Length
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Made, Stage
from xmas.target.target import Target
from xmas.training.proxy import Proxy
from xmas.training.starts.first_stage import FirstStage
from xmas.training.starts.pretrained import Pretrained


def stages(goal: Stage) -> list[Stage]:
    """Everything that `goal` needs, itself last, every stage once and behind what it needs."""
    found: dict[str, Stage] = {}  # by all they hold: without its files a stage has no key

    def visit(stage: Stage) -> None:
        if repr(stage) not in found:
            for needed in needs(stage):
                visit(needed)
            found[repr(stage)] = stage

    visit(goal)
    return list(found.values())


def held(value: Any) -> Iterator[Stage]:
    """The nearest stages inside the fields of anything."""
    if isinstance(value, Stage):
        yield value
    elif isinstance(value, Made):
        yield value.stage
    elif isinstance(value, dict):
        yield from held(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from held(each)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _fields(value)


def _fields(value: Any) -> Iterator[Stage]:
    for field in dataclasses.fields(value):
        yield from held(getattr(value, field.name))


@functools.singledispatch
def needs(stage: Stage) -> Iterable[Stage]:
    """The stages that `stage` asks the store for."""
    return _fields(stage)


@needs.register
def _(stage: Pretrained) -> Iterable[Stage]:
    yield from _fields(stage)
    yield stage.tokens()
    yield stage.image_stage()


@needs.register
def _(stage: FirstStage) -> Iterable[Stage]:
    yield from _fields(stage)
    yield stage.tokens()
    yield image_stage(stage.pool, stage.start.tower, cached=stage.cache_vision)


@needs.register
def _(stage: Proxy) -> Iterable[Stage]:
    yield from _fields(stage)
    yield stage.tokens()
    yield image_stage(stage.pool, stage.start.tower, cached=stage.cache_vision)


@needs.register
def _(stage: Target) -> Iterable[Stage]:
    yield from _fields(stage)
    yield stage.tokens()
    pool = stage.subset.ranking.pool
    yield image_stage(pool, stage.start.tower, cached=stage.cache_vision)


@needs.register
def _(stage: Ranking) -> Iterable[Stage]:
    yield from held(stage.pool)
    if isinstance(stage.selector, Length):
        yield stage.selector.proxy.tokens()  # only its tokens are looked at
    else:
        yield from held(stage.selector)


@needs.register
def _(stage: Subset) -> Iterable[Stage]:
    if stage.nested:
        yield stage.ranking
    else:  # the selector is asked itself
        yield from held([stage.ranking.pool, stage.ranking.selector])
    if stage.counted is not None:
        yield stage.counted.tokens()


@needs.register
def _(stage: Scores) -> Iterable[Stage]:
    for target in [*stage.reference.targets(), stage.target]:
        for benchmark in stage.benchmarks().values():
            yield Score(benchmark, target, stage.generation)
