"""What an exam costs beyond its rankings: samples, planted pools, plain vectors."""

from xmas.data.planted.planted_pool import PlantedPool
from xmas.data.pool_sample import PoolSample
from xmas.estimate.work import Context, Work, work
from xmas.features.averaged import AveragedTrajectories
from xmas.features.plain_vectors import SIDE, WORDS, PlainVectors
from xmas.results.exam.exam import Exam

_WORDS = 5e-5  # seconds of a core to hash a row's words; assumed, as those of a sketch
_OPENED = 1e-5  # seconds of a core to list a row's pictures; assumed
_JPEG = 15_000  # bytes of an altered picture; assumed
_MEASURED = 2e-7  # seconds of a core to measure a row of a subset; assumed


@work.register
def _(stage: PoolSample, context: Context) -> Work:
    rows = context.census(stage.as_pool()).rows
    return Work(f"{rows:,} rows sampled", disk=8.0 * rows)


@work.register
def _(stage: PlantedPool, context: Context) -> Work:
    census = context.census(stage.pool)
    shares = stage.planting.shares()
    near = round((shares["near"] + shares["inflated"]) * census.rows)
    planted = round(sum(shares.values()) * census.rows)
    return Work(
        f"{planted:,} of {census.rows:,} rows planted, {near:,} near copies of pictures",
        core_seconds=2 * census.decode * near + _OPENED * census.rows,
        disk=60.0 * census.rows + float(_JPEG * near),
        host=300.0 * census.rows,
    )


@work.register
def _(stage: PlainVectors, context: Context) -> Work:
    census = context.census(stage.pool)
    width = 3 * SIDE * SIDE + WORDS
    return Work(
        f"thumbnails and words of {census.rows:,} rows",
        core_seconds=census.images * census.decode + _WORDS * census.rows,
        disk=4.0 * width * census.rows,
        host=12.0 * width * census.rows,
    )


@work.register
def _(stage: AveragedTrajectories, context: Context) -> Work:
    rows = context.census(stage.proxy.pool).rows
    values = 4.0 * rows * stage.proxy.snapshots * stage.spectra.k
    return Work(f"the mean of {len(stage.all())} trajectories", disk=values, host=3 * values)


@work.register
def _(stage: Exam, context: Context) -> Work:
    rows = context.census(stage.examined_pool).rows
    rankings = sum(1 for trials in stage.trials().values() for _ in trials.rankings())
    return Work(
        f"{rankings:,} rankings of {len(stage.selectors or ())} selectors compared",
        core_seconds=_MEASURED * rows * rankings * len(stage.fractions),
        disk=200.0 * rankings,
        host=4.0 * (3 * SIDE * SIDE + WORDS) * rows,
    )
