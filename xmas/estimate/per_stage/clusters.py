"""What clusters cost: k-means of any feature, on the host, or spherical, block by block."""

import functools

from xmas.estimate import flops
from xmas.estimate.per_stage.activations import width
from xmas.estimate.per_stage.clip import halves
from xmas.estimate.per_stage.losses import ENCODED
from xmas.estimate.per_stage.shallow import hidden
from xmas.estimate.work import CORE, Context, Work, work
from xmas.features.activations import Activations
from xmas.features.clip.clip_rows import ClipRows
from xmas.features.clustering.assigner import HELD
from xmas.features.clustering.cluster_count import clusters_of
from xmas.features.clustering.kmeans import Clusters
from xmas.features.clustering.source_clusters import SourceClusters
from xmas.features.clustering.spherical import Spherical
from xmas.features.last_layer import LastLayer
from xmas.features.losses.questions import QuestionEmbeddings
from xmas.features.shallow import Shallow
from xmas.features.trajectories import Trajectories
from xmas.selection.methods.dics import Dics, split
from xmas.selection.methods.guarded_cover import GuardedCover
from xmas.selection.methods.quality_diversity import QualityDiversity
from xmas.store import Stage


@functools.singledispatch
def numbers(features: Stage, context: Context) -> tuple[float, int] | None:
    """The rows that have a feature, and its dimensions; None if it is of an unknown type."""
    return None


@numbers.register
def _(features: Trajectories, context: Context) -> tuple[float, int]:
    census = context.census(features.proxy.tokens())
    return census.pictured, features.proxy.snapshots * features.spectra.k


@numbers.register
def _(features: Activations | LastLayer, context: Context) -> tuple[float, int]:
    return float(context.census(features.proxy.tokens()).rows), width(features)


@numbers.register
def _(features: Shallow, context: Context) -> tuple[float, int]:
    return context.census(features.model.tokens()).pictured, hidden(features)


@numbers.register
def _(features: ClipRows, context: Context) -> tuple[float, int]:
    census = context.census(features.clip.pool)
    rows = census.rows if features.combine == "text" else census.pictured
    return rows, halves(features.clip.clip, context)[2] * (2 if features.combine == "concat" else 1)


@numbers.register
def _(features: QuestionEmbeddings, context: Context) -> tuple[float, int]:
    return float(context.census(features.pool).rows), ENCODED


@work.register
def _(stage: Clusters, context: Context) -> Work | None:
    size = numbers(stage.features, context)
    if size is None:
        return None
    points, dimensions = size
    if isinstance(stage.features, Trajectories) and stage.reduction != "vector":
        dimensions //= stage.features.spectra.k
    k = clusters_of(stage.k, int(points))
    return Work(
        f"k-means, {k:,} clusters of {points:,.0f} rows in {dimensions:,} dimensions",
        core_seconds=flops.kmeans(points, k, dimensions, stage.iterations) / CORE,
        disk=8.0 * points,
        host=16.0 * points * dimensions,
    )


@work.register
def _(stage: SourceClusters, context: Context) -> Work | None:
    """As if all sources were one, at most: inside each, fewer centroids are compared."""
    size = numbers(stage.features, context)
    if size is None:
        return None
    points, dimensions = size
    k = max(1, int(stage.share * points))
    return Work(
        f"k-means in every source, {k:,} clusters of {points:,.0f} rows",
        core_seconds=flops.kmeans(points, k, dimensions, stage.iterations) / CORE,
        disk=8.0 * points,
        host=8.0 * points * dimensions,
    )


@work.register
def _(stage: Spherical, context: Context) -> Work | None:
    size = numbers(stage.features, context)
    if size is None:
        return None
    points, dimensions = size
    trained, k = points, clusters_of(stage.k, int(points))
    if stage.per_centroid is not None:
        trained = min(points, float(stage.per_centroid * k))
    centroids = 4.0 * k * dimensions
    block = 4.0 * stage.block * (dimensions + k)
    on_gpu = stage.hardware.accelerator != "cpu"  # then two products in 16 bits for one in 32
    feature = 2.0 * points * dimensions
    device = stage.hardware.device
    is_held = on_gpu and device is not None and feature <= HELD * 1e9 * device.memory
    return Work(
        f"spherical k-means, {k:,} clusters of {points:,.0f} rows, {stage.iterations} "
        "passes at most",
        flops=(2 if on_gpu else 1)
        * (
            flops.kmeans(trained, k, dimensions, stage.iterations - 1)
            + 2.0 * points * k * dimensions
        ),
        bits=16 if on_gpu else 32,
        disk=centroids + 8.0 * points,
        scratch=centroids,
        host=2 * centroids + block,
        device=3 * centroids + block + (feature if is_held else 0.0),
    )


def of_greedy(points: float, chosen: float, dimensions: int) -> float:
    """FLOPs of a greedy choice: in the worst case each point is compared with each choice, chosen
    ones only with those before them.
    """
    return 2 * (points - chosen / 2) * chosen * dimensions


def of_dics(selector: Dics, budget: int, context: Context) -> float:
    """FLOPs of its farthest-point sampling; none for a feature of unknown size."""
    size = numbers(selector.features, context)
    if size is None:
        return 0.0
    points, dimensions = size
    division = split(max(int(points), budget), budget)
    width = min(dimensions, selector.project or dimensions)
    return of_greedy(division.offered, division.spread, width)


def of_quality_diversity(selector: QualityDiversity, context: Context) -> float:
    """FLOPs of its products; none for a feature of unknown size."""
    size = numbers(selector.features, context)
    if size is None:
        return 0.0
    points, dimensions = size
    width = min(dimensions, selector.project or dimensions)
    return of_greedy(points, selector.greedy * points, width)


def of_guarded_cover(selector: GuardedCover, context: Context) -> float:
    """FLOPs of its farthest-point order, as if all sources were one, at most; none for a feature of
    unknown size.
    """
    size = None if selector.features is None else numbers(selector.features, context)
    if size is None:
        return 0.0
    points, dimensions = size
    points *= 1 - max(selector.guard or 0.0, selector.necessity or 0.0)  # may be the same rows
    return of_greedy(points, points, min(dimensions, selector.project or dimensions))
