"""What stages cost that run no model: drawings, tokens, clusters, rankings, subsets."""

from xmas.data.images.broken import THREADS
from xmas.data.valid_rows import ValidRows
from xmas.demo.bench import WRITERS, DemoBench
from xmas.demo.pool import DemoPool
from xmas.estimate import flops
from xmas.estimate.assumed import demo_files
from xmas.estimate.per_stage.activations import of_mmd
from xmas.estimate.per_stage.clusters import of_dics, of_guarded_cover, of_quality_diversity
from xmas.estimate.per_stage.fits import chosen
from xmas.estimate.per_stage.shallow import of_leverage
from xmas.estimate.work import CORE, Context, Work, work
from xmas.evaluation.judge.ratings import Ratings
from xmas.evaluation.judge.reviews import Reviews
from xmas.evaluation.rescore import Rescore
from xmas.evaluation.scores import Scores
from xmas.evaluation.submission import Submission
from xmas.evaluation.validation_rows import ValidationRows
from xmas.features.clustering.cluster_count import clusters_of
from xmas.models.chat.tokens import Tokenised
from xmas.models.checked_images import CheckedImages
from xmas.models.tokenizer import TrainedTokenizer
from xmas.selection.methods.coincide import Coincide
from xmas.selection.methods.dics import Dics
from xmas.selection.methods.guarded_cover import GuardedCover
from xmas.selection.methods.length import Length
from xmas.selection.methods.quality_diversity import QualityDiversity
from xmas.selection.methods.scalselect import Scalselect
from xmas.selection.protocol import name_of
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.selection.subset_forms import SubsetFiles

_DRAW = 0.0004  # seconds to draw and write an image of the demo, measured
_DRAWN = 1800  # bytes of one, measured
_TOKEN = 3e-6  # seconds of a core to tokenise one token, measured on the demo
_INDEX = 720  # bytes of a row while a pool is opened, measured with paths of 35 letters


@work.register
def _(stage: DemoPool, context: Context) -> Work:
    images = stage.rows + stage.captions
    records = sum(file.rows * file.record for file in demo_files(stage).values())
    return Work(
        f"{images:,} drawings and their rows",
        core_seconds=_DRAW * images,
        disk=_DRAWN * images + records,
        host=2.0 * records,
    )


@work.register
def _(stage: DemoBench, context: Context) -> Work:
    images = stage.questions * sum(spec.scale for spec in WRITERS.values())
    return Work("benchmark files", core_seconds=_DRAW * images, disk=_DRAWN * images)


@work.register
def _(stage: ValidationRows, context: Context) -> Work:
    return Work(f"{stage.rows:,} rows of {stage.benchmark.name} as a pool", disk=1e5 * stage.rows)


@work.register
def _(stage: TrainedTokenizer, context: Context) -> Work:
    counts = [context.census(pool) for pool in stage.pools]  # whose files may contain pictures
    tokens = sum(count.scale * float(count.text.sum()) for count in counts)
    letters = tokens * context.assumed.letters
    return Work(
        f"a tokenizer from {letters / 1e6:,.1f} MB of text",
        core_seconds=letters * 1e-7,
        disk=50.0 * stage.vocabulary,
        host=3 * letters,
    )


@work.register
def _(stage: Tokenised, context: Context) -> Work:
    census = context.census(stage)
    text = census.scale * float(census.text.sum())
    return Work(
        f"{census.rows:,} rows of {census.name} as {text / 1e6:,.2f} M tokens",
        core_seconds=text * _TOKEN,
        disk=5.0 * text + 12.0 * census.rows,
        host=float(_INDEX * census.rows),
    )


@work.register
def _(stage: CheckedImages, context: Context) -> Work:
    census = context.census(stage.pool)
    return Work(
        f"{census.images:,} images of {census.name} decoded",
        core_seconds=census.images * census.decode,
        readers=stage.threads,
        host=float(_INDEX * census.rows),
    )


@work.register
def _(stage: ValidRows, context: Context) -> Work:
    census = context.census(stage.pool)
    return Work(
        f"{census.rows:,} rows of {census.name} checked, {census.images:,} images decoded",
        core_seconds=census.images * census.decode,
        readers=THREADS,
        disk=float(census.size),
        host=float(_INDEX * census.rows),
    )


@work.register
def _(stage: Ranking, context: Context) -> Work:
    rows = context.census(stage.pool).rows
    selector = stage.selector
    seconds = 0.0
    if isinstance(selector, Length):
        seconds = flops.kmeans(rows, clusters_of(selector.k, rows), 1, selector.iterations) / CORE
    elif isinstance(selector, Coincide):
        seconds = of_mmd(selector, rows) / CORE
    elif isinstance(selector, Scalselect):
        seconds = of_leverage(selector, context.census(stage.pool).pictured) / CORE
    elif isinstance(selector, QualityDiversity):
        seconds = of_quality_diversity(selector, context) / CORE
    elif isinstance(selector, GuardedCover):
        seconds = of_guarded_cover(selector, context) / CORE
    return Work(
        f"{name_of(selector)} ranks {rows:,} rows",
        core_seconds=seconds,
        disk=20.0 * rows,
        host=float(_INDEX * rows),
    )


@work.register
def _(stage: Subset, context: Context) -> Work:
    census = context.census(stage.ranking.pool)
    rows, selector = chosen(stage, context), stage.ranking.selector
    seconds = of_dics(selector, rows, context) / CORE if isinstance(selector, Dics) else 0.0
    return Work(
        f"{rows:,} rows cut and copied",
        core_seconds=seconds,
        disk=(8.0 + census.size / census.rows) * rows,
        host=float(_INDEX * census.rows),
    )


@work.register
def _(stage: SubsetFiles, context: Context) -> Work:
    census = context.census(stage.subset.ranking.pool)
    rows = chosen(stage.subset, context)
    return Work(
        f"{rows:,} rows written as {stage.format}",
        disk=census.size / census.rows * rows,
        host=float(_INDEX * census.rows),
    )


@work.register
def _(stage: Reviews, context: Context) -> Work:
    questions = len(stage.asked)
    return Work(
        f"{questions:,} questions to a judge, at the judge's price", disk=4000.0 * questions
    )


@work.register
def _(stage: Ratings, context: Context) -> Work:
    census = context.census(stage.pool)
    return Work(
        f"{census.pictured:,.0f} rows to a judge, at the judge's price",
        core_seconds=census.pictured * census.decode,
        disk=200.0 * census.pictured,
    )


@work.register
def _(stage: Rescore | Submission, context: Context) -> Work:
    return Work("answers of an existing file")


@work.register
def _(stage: Scores, context: Context) -> Work:
    return Work("the scores of target and reference", disk=2000.0)
