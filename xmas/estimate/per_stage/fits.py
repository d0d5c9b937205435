"""What fits cost: the start points, the proxy, the target."""

import dataclasses
import math

import numpy as np
from jaxtyping import Int

from xmas.estimate import flops
from xmas.estimate.assumed import Census
from xmas.estimate.flops import Load
from xmas.estimate.work import Context, Work, work
from xmas.models.adapters import Adapters, adapted_matrices, numbers_of
from xmas.models.assembled import Assembled
from xmas.models.chat.batches import micro_batches
from xmas.models.chat.tokens import Tokenised
from xmas.models.published import Published
from xmas.models.shape import Shape, Tower, shape_of
from xmas.selection.subset import Subset, budget_of
from xmas.target.export import Export
from xmas.target.target import Target
from xmas.training.fit import memory
from xmas.training.fit.batch_plan import training_order
from xmas.training.fit.memory import FitMemory
from xmas.training.fit.recipe import Hardware, Recipe
from xmas.training.probe import schedule
from xmas.training.proxy import Proxy
from xmas.training.starts.first_stage import FirstStage
from xmas.training.starts.pretrained import Pretrained, SmallLlava
from xmas.training.starts.towers import TwoTower


def bits(precision: str) -> int:
    """Bits of matrix products under a precision, by Lightning's or torch's name of it."""
    return 32 if "32" in precision else 16


def chosen(subset: Subset, context: Context) -> int:
    """Rows of a subset before it is cut; for a budget in tokens, at the pool's mean length."""
    if subset.tokens is not None and subset.counted is not None:
        pool = context.census(subset.counted.tokens())
        return min(pool.rows, int(subset.tokens / float(pool.text.mean())))
    pool = context.census(subset.ranking.pool)
    return budget_of(pool.rows, fraction=subset.fraction, rows=subset.rows)


def fit_work(
    what: str,
    context: Context,
    tokens: Tokenised,
    shape: Shape,
    recipe: Recipe,
    *,
    rows: int,
    cached: bool,
    hardware: Hardware,
    rank: int | Adapters | None = None,
    halved: bool = False,
) -> Work:
    """A fit on `rows` rows of a pool, padded as in its order of batches, or packed.

    Rows of a subset are assumed to be as long as those of the pool. Unless features are `cached`,
    every image is decoded and passes the tower whenever its row is used.
    """
    census = context.census(tokens)
    lengths = census.lengths(shape.image_tokens, tokens.max_length)
    order = training_order(
        lengths,
        lengths - census.text.astype(int),
        census.has_image,
        recipe,
        tower=not cached,
        rng=np.random.default_rng(0),
    )
    batches = micro_batches(order, recipe.micro_batch)
    packed = hardware.packing and not shape.whole
    widest = [lengths[batch] if packed else padded(lengths[batch]) for batch in batches]
    widths = np.concatenate(widest).astype(float)
    load = Load(
        rows=len(widths),
        tokens=float(widths.sum()),
        squares=float((widths**2).sum()),
        answers=float(census.answers.sum()),
        images=float(census.image_counts.sum()),
    ).times(recipe.epochs * rows / len(widths))
    precision = bits(recipe.precision)
    learning = memory.trained(shape, rank)
    shards = hardware.world if hardware.strategy == "fsdp2" else 1
    kept = FitMemory(
        shape.decoder,
        memory.states(shape, bits=precision, rank=rank, halved=halved, shards=shards),
        precision,
        rank,
        hardware.logit_rows,
    )
    tokens_of = np.array([float(batch_widths.sum()) for batch_widths in widest])
    answers_of = np.array([float(census.answers[batch].sum()) for batch in batches])
    share, limit = hardware.checkpointing, hardware.memory
    recomputed = [
        kept.recomputed(tokens, answers, share=share, memory=limit)
        for tokens, answers in zip(tokens_of, answers_of, strict=True)
    ]
    return Work(
        what,
        flops=flops.fit(
            shape,
            load,
            towers=0 if cached else load.images,
            rank=rank,
            checkpointing=float(tokens_of @ recomputed) / tokens_of.sum() / shape.decoder.layers,
            microbatches=recipe.micro_steps(rows),
        ),
        bits=precision,
        share="fit",
        core_seconds=0 if cached else load.images * census.decode,
        readers=max(1, hardware.workers),
        disk=4.0 * learning,
        scratch=(4.0 + memory.ADAM) * learning,
        host=4.0 * shape.parameters,
        device=max(map(kept.peak, tokens_of, answers_of, recomputed)),
    )


def padded(lengths: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """The lengths of the rows of a batch, each padded to the longest."""
    return np.full_like(lengths, lengths.max())


@work.register
def _(stage: TwoTower, context: Context) -> Work:
    census = context.census(stage.captions)
    vision, text = two_towers(stage, census)
    pictures = stage.epochs * census.images
    parameters = vision.parameters + text.parameters + stage.tokenizer.vocabulary * stage.width
    pixels = 3 * stage.image_size**2
    return Work(
        f"two towers from nothing, {census.images:,} captions, {stage.epochs} epochs",
        flops=flops.two_towers(
            vision,
            text,
            pictures=pictures,
            batch=stage.batch,
            vocabulary=stage.tokenizer.vocabulary,
        ),
        share="fit",
        core_seconds=census.images * census.decode,
        disk=4.0 * parameters,
        scratch=12.0 * parameters,
        host=2.0 * pixels * census.images,  # all pixels at once, float16
        device=16.0 * parameters
        + stage.batch * 4.0 * 20 * vision.tokens * vision.width * (vision.layers),
    )


def two_towers(stage: TwoTower, census: Census) -> tuple[Tower, Tower]:
    patches = (stage.image_size // stage.patch) ** 2
    lengths = census.answers[census.has_image]
    longest = min(stage.text_length, math.ceil(np.quantile(lengths, 0.98)) if len(lengths) else 1)
    wide = 4 * stage.width
    return (
        Tower(stage.layers, stage.width, wide, patches, stage.patch),
        Tower(stage.text_layers, stage.width, wide, longest, 0, class_token=False),
    )


@work.register
def _(stage: SmallLlava, context: Context) -> Work:
    size = 4.0 * stage.shape().parameters
    return Work("an untrained LLaVA around the tower", disk=size, host=2 * size)


@work.register
def _(stage: Assembled | Published, context: Context) -> Work:
    size = size_of(stage.dtype) * stage.shape().parameters
    origin = "published" if stage.drawn is None else "random"
    return Work(f"{origin} weights in the store, {stage.dtype}", disk=size, host=2 * size)


def size_of(dtype: str) -> float:
    """Bytes of a number by torch's name of its type."""
    return 4.0 if dtype == "float32" else 2.0


@work.register
def _(stage: Pretrained, context: Context) -> Work:
    shape, tokens = stage.shape(), stage.tokens()
    census = context.census(tokens)
    fit = fit_work(
        f"the start learns {census.rows:,} rows of {census.name}, {stage.recipe.epochs} epochs",
        context, tokens, shape, stage.recipe, rows=census.rows, cached=True,
        hardware=stage.hardware,
    )  # fmt: skip
    return dataclasses.replace(fit, disk=4.0 * shape.parameters)


@work.register
def _(stage: FirstStage, context: Context) -> Work:
    tokens = stage.tokens()
    rows = context.census(tokens).rows
    return fit_work(
        f"the projector alone learns {rows:,} rows",
        context, tokens, stage.start.shape(), stage.recipe, rows=rows, cached=stage.cache_vision,
        hardware=stage.hardware, rank=0, halved=True,
    )  # fmt: skip


@work.register
def _(stage: Proxy, context: Context) -> Work:
    tokens = stage.tokens()
    rows = context.census(tokens).rows
    fit = fit_work(
        f"the proxy learns {rows:,} rows, keeps {stage.snapshots} snapshots",
        context, tokens, shape_of(stage.start), stage.recipe, rows=rows, cached=stage.cache_vision,
        hardware=stage.hardware,
    )  # fmt: skip
    return dataclasses.replace(fit, disk=fit.disk * snapshots(stage, rows))


def snapshots(proxy: Proxy, rows: int) -> int:
    """The number of snapshots that a fit on `rows` rows keeps."""
    return len(schedule(proxy.recipe.steps(rows), proxy.snapshots))


@work.register
def _(stage: Target, context: Context) -> Work:
    if stage.untrained:
        parameters = shape_of(stage.start).parameters
        size = size_of(getattr(stage.start, "dtype", "float32")) * parameters
        disk = size if stage.lora is None else 0.0
        return Work("the start point as a target, untrained", disk=disk, host=size)
    rows = chosen(stage.subset, context)
    shape = shape_of(stage.start)
    rank = adapters(stage, shape)
    how = "in full" if rank is None else _named(rank)
    fit = fit_work(
        f"the target learns {rows:,} rows, {how}",
        context, stage.tokens(), shape, stage.recipe, halved=True,
        rows=rows, cached=stage.cache_vision, hardware=stage.hardware, rank=rank,
    )  # fmt: skip
    disk = fit.disk if rank is not None else fit.disk * bits(stage.recipe.precision) / 32
    stored = size_of(getattr(stage.start, "dtype", "float32"))
    return dataclasses.replace(fit, disk=disk, host=stored * shape.parameters)


def adapters(stage: Target, shape: Shape) -> Adapters | None:
    """A target's LoRA in numbers; None: it trains in full."""
    lora = stage.lora
    if lora is None:
        return None
    return Adapters(
        lora.rank,
        adapted_matrices(
            shape.decoder, lambda path, language: lora.adapts(path, language=language)
        ),
        dora=lora.dora,
        dropout=lora.dropout > 0,
        also=numbers_of(shape.decoder, lora.also),
        connector=lora.connector,
        quantised=stage.hardware.quantise is not None,
    )


def _named(lora: Adapters) -> str:
    name = f"{'DoRA' if lora.dora else 'LoRA'} of rank {lora.rank}"
    return f"{name} on 4-bit weights" if lora.quantised else name


@work.register
def _(stage: Export, context: Context) -> Work:
    size = size_of(stage.dtype) * shape_of(stage.target.start).parameters
    return Work(f"the target in one piece, {stage.dtype}", disk=size, host=2 * size)
