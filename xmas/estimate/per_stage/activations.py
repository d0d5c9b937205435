"""What activations and last layers of a whole pool cost, and COINCIDE's kernels in clusters."""

from xmas.estimate import flops
from xmas.estimate.flops import Load
from xmas.estimate.per_stage.fits import bits
from xmas.estimate.work import Context, Work, work
from xmas.features.activations import Activations
from xmas.features.clustering.cluster_count import clusters_of
from xmas.features.last_layer import LastLayer
from xmas.models.shape import shape_of
from xmas.selection.methods.coincide import Coincide


def width(stage: Activations | LastLayer) -> int:
    """Numbers of a row."""
    hidden = shape_of(stage.proxy.start).decoder.width
    return hidden if isinstance(stage, LastLayer) else 2 * len(stage.layers) * hidden


@work.register
def _(stage: Activations | LastLayer, context: Context) -> Work:
    """The language model up to the last layer that is read; padding is left out."""
    proxy = stage.proxy
    census, shape = context.census(proxy.tokens()), shape_of(proxy.start)
    lengths = census.lengths(shape.image_tokens, proxy.max_length).astype(float)
    load = Load(
        rows=len(lengths), tokens=float(lengths.sum()), squares=float((lengths**2).sum())
    ).times(census.scale)
    read = [shape.decoder.layers - 1] if isinstance(stage, LastLayer) else stage.layers
    run = (max(read) + 1) / shape.decoder.layers
    towers = 0.0 if proxy.cache_vision else census.pictured * shape.tiles
    size = bits(stage.precision)
    tokens = max(stage.batch_tokens, float(lengths.max()))
    return Work(
        f"{len(read)} layers of {census.rows:,} rows, {width(stage):,} numbers each",
        flops=flops.tower(shape.tower, towers)
        + flops.projector(shape, census.pictured)
        + run * flops.language(shape.decoder, load),
        bits=size,
        core_seconds=0.0 if proxy.cache_vision else census.pictured * census.decode,
        readers=max(1, proxy.hardware.workers),
        disk=2.0 * census.rows * width(stage),
        scratch=2.0 * census.rows * width(stage),
        host=4.0 * shape.parameters,
        device=shape.parameters * size / 8 + tokens * 4.0 * 8 * shape.decoder.width,
    )


def of_mmd(selector: Coincide, rows: int) -> float:
    """FLOPs of the kernels in clusters of equal size, and of the centroids' cosines."""
    k, numbers = clusters_of(selector.clusters.k, rows), width(selector.features)
    return rows * rows / k * numbers + k * k * numbers / 2
