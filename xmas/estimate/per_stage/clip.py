"""What CLIP's features and OnceSelect cost: embeddings, a small classifier, its labels."""

from xmas.estimate import flops
from xmas.estimate.per_stage.fits import bits, two_towers
from xmas.estimate.work import CORE, Context, Work, work
from xmas.features.clip.clip import ClipEmbeddings
from xmas.features.clip.clip_model import PretrainedClip
from xmas.features.clip.clip_rows import ClipRows
from xmas.features.clustering.cluster_count import clusters_of
from xmas.features.once_select.once_select import OnceSelect
from xmas.features.once_select.pseudo_labels import PseudoLabels
from xmas.models.shape import ShapelessError, Tower
from xmas.models.sources import Source
from xmas.models.specs import config_of
from xmas.store import Stage
from xmas.training.starts.towers import TwoTower

_TURNS = 2.0  # of a row, at least: a question and its answer


def halves(clip: Stage | None, context: Context) -> tuple[Tower, Tower, int]:
    """Vision and text tower of a CLIP, and the width of its vectors. Raises ShapelessError."""
    if isinstance(clip, TwoTower):
        return *two_towers(clip, context.census(clip.captions)), clip.width
    if not isinstance(clip, PretrainedClip):
        raise ShapelessError(f"{type(clip).__name__} is no CLIP whose size is known")
    config = config_of(Source(clip.name, clip.revision))
    text = config.text_config
    text_tower = Tower(
        text.num_hidden_layers,
        text.hidden_size,
        text.intermediate_size,
        text.max_position_embeddings,
        0,
        class_token=False,
    )
    return Tower.of(config.vision_config), text_tower, config.projection_dim


@work.register
def _(stage: PretrainedClip, context: Context) -> Work:
    vision, text, _ = halves(stage, context)
    return Work("a published CLIP", disk=4.0 * (vision.parameters + text.parameters))


@work.register
def _(stage: ClipEmbeddings, context: Context) -> Work:
    vision, text, width = halves(stage.clip, context)
    census = context.census(stage.pool)
    size = bits(stage.precision)
    parameters = vision.parameters + text.parameters
    tokens = max(stage.image_batch * vision.tokens, stage.text_batch * text.tokens)
    return Work(
        f"CLIP sees {census.images:,} images and reads {_TURNS * census.rows:,.0f} turns",
        flops=flops.tower(vision, census.images) + flops.tower(text, _TURNS * census.rows),
        bits=size,
        core_seconds=census.images * census.decode,
        readers=stage.threads,
        disk=2.0 * width * (census.images + _TURNS * census.rows) + 24.0 * census.rows,
        scratch=2.0 * width * max(census.images, _TURNS * census.rows),
        host=4.0 * parameters,
        device=parameters * size / 8 + 4.0 * 8 * tokens * max(vision.width, text.width),
    )


@work.register
def _(stage: ClipRows, context: Context) -> Work:
    rows = context.census(stage.clip.pool).rows
    width = halves(stage.clip.clip, context)[2] * (2 if stage.combine == "concat" else 1)
    return Work(f"a vector of {width:,} for each of {rows:,} rows", disk=2.0 * width * rows)


@work.register
def _(stage: OnceSelect, context: Context) -> Work:
    census, width = context.census(stage.clip.pool), 2 * halves(stage.clip.clip, context)[2]
    points = census.pictured
    k = clusters_of(stage.k, int(points))
    if stage.per_centroid is not None:
        points = min(points, float(stage.per_centroid * k))
    return Work(
        f"{k} pseudo-labels, learnt by a small network",
        core_seconds=flops.kmeans(points, k, width, stage.iterations) / CORE,
        disk=4.0 * k * width,
        host=4.0 * width * points,
    )


@work.register
def _(stage: PseudoLabels, context: Context) -> Work:
    rows = context.census(stage.clip.pool).rows
    return Work(f"{rows:,} rows labelled by the network", disk=12.0 * rows)
