"""What shallow features and signals at answers cost, and the ranking that multiplies features."""

from xmas.estimate import flops
from xmas.estimate.assumed import Census
from xmas.estimate.flops import Load
from xmas.estimate.per_stage.fits import bits
from xmas.estimate.work import Context, Work, work
from xmas.features.answer_layers import AnswerLayers
from xmas.features.shallow import Shallow
from xmas.models.shape import Shape, shape_of
from xmas.selection.methods.scalselect import Scalselect

_KEPT = 0.25  # of the components have the energy of ScalSelect, assumed


def hidden(stage: Shallow) -> int:
    """Numbers of a row in each of the two arrays."""
    return shape_of(stage.model.start).decoder.width


def image_rows(census: Census, shape: Shape, longest: int) -> Load:
    """The rows with an image, of any padding."""
    lengths = census.lengths(shape.image_tokens, longest)[census.has_image].astype(float)
    load = Load(rows=len(lengths), tokens=float(lengths.sum()), squares=float((lengths**2).sum()))
    return load.times(census.scale)


@work.register
def _(stage: Shallow | AnswerLayers, context: Context) -> Work:
    """The tower, and the first layers of the language model over rows with an image."""
    model = stage.model
    census, shape = context.census(model.tokens()), shape_of(model.start)
    load = image_rows(census, shape, model.max_length)
    if isinstance(stage, Shallow):
        layers, row_bytes = stage.layer, 2 * 2.0 * hidden(stage)
    else:
        layers, row_bytes = max(stage.layers) + 1, 4.0 * (len(stage.layers) + sum(stage.neurons))
    towers = 0.0 if model.cache_vision else census.pictured * shape.tiles
    size = bits(stage.precision)
    longest = float(census.lengths(shape.image_tokens, model.max_length).max())
    return Work(
        f"{layers} of {shape.decoder.layers} layers of {load.rows:,.0f} rows with an image, "
        f"{row_bytes:,.0f} bytes each",
        flops=flops.tower(shape.tower, towers)
        + flops.projector(shape, census.pictured)
        + layers / shape.decoder.layers * flops.language(shape.decoder, load),
        bits=size,
        core_seconds=0.0 if model.cache_vision else census.pictured * census.decode,
        readers=max(1, model.hardware.workers),
        disk=census.rows * row_bytes,
        scratch=census.rows * row_bytes,
        host=4.0 * shape.parameters,
        device=shape.parameters * size / 8
        + max(stage.batch_tokens, longest) * 4.0 * 8 * shape.decoder.width,
    )


def of_leverage(selector: Scalselect, rows: float) -> float:
    """FLOPs of half the Gram matrix, its eigenvectors, and all rows in the components."""
    width = hidden(selector.features)
    return rows * width**2 * (1 + 2 * _KEPT) + 9.0 * width**3
