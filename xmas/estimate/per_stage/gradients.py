"""What LoRA gradients of a whole pool cost, one by one and projected."""

from xmas.estimate import flops
from xmas.estimate.flops import Load
from xmas.estimate.per_stage.fits import adapters, bits
from xmas.estimate.work import Context, Work, work
from xmas.features.influence.gradients import Gradients
from xmas.models.shape import shape_of
from xmas.target.target import Target
from xmas.training.fit.memory import FitMemory

_SIGN = 3  # operations that make one sign of the projection: a hash is shared by 64


@work.register
def _(stage: Gradients, context: Context) -> Work:
    """Forward and backward as in the fit, each row's gradient in every matrix, its projection.

    A target without LoRA is refused when its gradients are asked for.
    """
    model, tokens = stage.model, stage.seen.tokens()
    census, shape = context.census(tokens), shape_of(model.start)
    lora = adapters(model, shape) if isinstance(model, Target) else None
    lengths = census.lengths(shape.image_tokens, tokens.max_length).astype(float)
    load = Load(
        rows=len(lengths),
        tokens=float(lengths.sum()),
        squares=float((lengths**2).sum()),
        answers=float(census.answers.sum()),
        images=float(census.image_counts.sum()),
    ).times(census.scale)
    cached = stage.pool is None and model.cache_vision
    numbers = 0 if lora is None else lora.thin
    projected = 2.0 * census.rows * numbers * stage.width
    batch = max(stage.batch_tokens, float(lengths.max()))
    if numbers * stage.width > stage.resident_bytes:
        projected += _SIGN * numbers * stage.width * load.tokens / batch
    precision = bits(stage.precision)
    rows_of_batch = batch / float(lengths.mean())
    widest = 0 if lora is None else max(lora.rank * max(matrix) for matrix in lora.matrices)
    answers = batch * float(census.answers.sum()) / float(lengths.sum())
    weights = (shape.parameters + numbers) * precision / 8
    kept = FitMemory(shape.decoder, weights, precision, lora or 0)
    return Work(
        f"LoRA gradients of {census.rows:,} rows of {census.name}, {numbers:,} numbers each, "
        f"projected to {stage.width:,}",
        flops=flops.fit(shape, load, towers=0 if cached else load.images, rank=lora or 0)
        + flops.projector(shape, load.images)
        + projected,
        bits=precision,
        share="fit",
        core_seconds=0 if cached else load.images * census.decode,
        readers=max(1, model.hardware.workers),
        disk=2.0 * census.rows * stage.width,
        scratch=2.0 * census.rows * stage.width,
        host=4.0 * shape.parameters,
        device=kept.peak(batch, answers, 0)
        + stage.resident_bytes
        + 4.0 * rows_of_batch * (widest + stage.width),
    )
