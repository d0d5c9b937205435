"""What rows held out of a pool cost: the split, and the pass over their answers."""

from xmas.data.held_out import HeldOutSplit
from xmas.estimate import flops, memory
from xmas.estimate.per_stage.fits import bits
from xmas.estimate.per_stage.losses import answers_load
from xmas.estimate.work import Context, Work, work
from xmas.evaluation.answer_losses import BATCH_TOKENS, AnswerLosses
from xmas.features.losses.token_statistics import CHUNK_BYTES
from xmas.models.shape import shape_of

_GROUPED = 1.1e-5  # seconds of a core a row or picture, measured: 665,000 rows of 378,000 pictures
_BYTES = 300  # of a row while groups are found, the same measurement
_ANSWER = 40  # bytes of an answer in the result


@work.register
def _(stage: HeldOutSplit, context: Context) -> Work:
    census, held_out = context.census(stage.pool), context.census(stage.held_out)
    return Work(
        f"{held_out.rows:,} of {census.rows:,} rows of {census.name} held out with near copies",
        core_seconds=_GROUPED * (census.rows + census.images),
        disk=8.0 * census.rows,
        host=float(_BYTES * census.rows),
    )


@work.register
def _(stage: AnswerLosses, context: Context) -> Work:
    """A forward pass as for losses of a whole pool, at one snapshot; towers run every time."""
    tokens = stage.on_pool.tokens()
    census, shape = context.census(tokens), shape_of(stage.target.start)
    load = answers_load(census, shape.image_tokens, tokens.max_length, images=True)
    width = bits(stage.precision)
    longest = int(census.lengths(shape.image_tokens, tokens.max_length).max())
    stream = max(BATCH_TOKENS, longest) * memory.block(shape.decoder)
    return Work(
        f"answers of {census.rows:,} rows held out under a target",
        flops=flops.forward(shape, load, towers=0)
        + flops.tower(shape.tower, load.images * shape.tiles),
        bits=width,
        core_seconds=load.images * census.decode,
        readers=max(1, stage.target.hardware.workers),
        disk=float(_ANSWER * census.rows),
        host=4.0 * shape.parameters,
        device=(shape.parameters + stream) * width / 8 + 3 * CHUNK_BYTES,
    )
