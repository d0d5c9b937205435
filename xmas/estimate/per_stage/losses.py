"""What losses cost, and the clusters and embeddings that are used with them."""

import dataclasses

import numpy as np

from xmas.estimate import flops, memory
from xmas.estimate.assumed import Census
from xmas.estimate.flops import Load
from xmas.estimate.per_stage.fits import bits, chosen, snapshots
from xmas.estimate.work import CORE, Context, Work, work
from xmas.features.clustering.cluster_count import clusters_of
from xmas.features.losses.answers import COLUMNS, Answers
from xmas.features.losses.consistency import Consistency
from xmas.features.losses.loss_clusters import LossClusters
from xmas.features.losses.pos_weights import TokenWeights
from xmas.features.losses.questions import QuestionEmbeddings
from xmas.features.losses.relevance import Relevance
from xmas.features.losses.token_statistics import CHUNK_BYTES, STATISTICS
from xmas.models.shape import shape_of
from xmas.selection.subset import Subset
from xmas.target.target import Target
from xmas.training.proxy import Proxy

_ENCODER = 2.1e7  # weights of all-MiniLM-L6-v2 that every token is multiplied with
ENCODED = 384  # numbers that it gives
_TAGGED = 1e-4  # seconds of a core to tag a token's word, assumed
_ASKED = 0.3  # of a row's text is its first question, assumed


def steps_of(stage: Answers, rows: int) -> int:
    """The number of snapshots that a pass with images measures."""
    if isinstance(stage.model, Proxy):
        return snapshots(stage.model, rows)
    return 2 if isinstance(stage.model, Target) else 1


def answers_load(
    census: Census, image_tokens: int, longest: int, *, images: bool, text_only: bool = True
) -> Load:
    """The input of one pass; rows are in order of length, so padding is small and left out.

    Args:
        images: with them, of all rows; or without them, of the rows that have one.
        text_only: with `images`, whether rows without an image are run too.
    """
    everything = images and text_only
    rows = np.ones(len(census.text), dtype=bool) if everything else census.has_image
    lengths = census.lengths(image_tokens if images else 0, longest)[rows].astype(float)
    load = Load(
        rows=len(lengths),
        tokens=float(lengths.sum()),
        squares=float((lengths**2).sum()),
        answers=float(census.answers[rows].sum()),
        images=float(census.image_counts.sum()) if images else 0.0,
    )
    return load.times(census.scale)


@work.register
def _(stage: Answers, context: Context) -> Work:
    """All snapshots in one pass with images, then the last one without them."""
    model, tokens = stage.model, stage.model.tokens()
    census, shape = context.census(tokens), shape_of(model.start)
    steps = steps_of(stage, census.rows)
    with_images, blind = (
        answers_load(census, shape.image_tokens, tokens.max_length, images=images)
        for images in (True, False)
    )
    towers = 0 if model.cache_vision else census.pictured
    width = bits(stage.precision)
    longest = int(census.lengths(shape.image_tokens, tokens.max_length).max())
    stream = max(stage.how.batch_tokens, longest) * memory.block(shape.decoder)
    again = steps if shape.whole else 1  # the tower's passes over an image
    return Work(
        f"answers of {census.rows:,} rows at {steps} snapshots, and without images at the last"
        f"{shape.path}",
        flops=flops.forward(shape, with_images, towers=0) * steps
        + flops.tower(shape.tower, again * towers * shape.tiles)
        + flops.forward(shape, blind, towers=0),
        bits=width,
        core_seconds=towers * census.decode,
        readers=max(1, model.hardware.workers),
        disk=4.0 * census.rows * (steps * len(STATISTICS) + len(COLUMNS)),
        scratch=8.0 * census.rows * (steps + 1) * (len(STATISTICS) + 1),
        host=4.0 * shape.parameters,
        device=(2 * shape.parameters + stream) * width / 8 + 3 * CHUNK_BYTES,
    )


@work.register
def _(stage: Consistency, context: Context) -> Work:
    """Answers with images and without, and questions from the image, with the answer and without.

    The rewritten rows have the same texts, questions labelled in the place of answers; the few
    words that ask for them are left out.
    """
    model, tokens = stage.model, stage.model.tokens()
    census, shape = context.census(tokens), shape_of(model.start)
    seeing, blind = (
        answers_load(census, shape.image_tokens, tokens.max_length, images=images, text_only=False)
        for images in (True, False)
    )
    asked = dataclasses.replace(seeing, answers=blind.tokens - blind.answers)
    towers = 0 if model.cache_vision else census.pictured
    width = bits(stage.precision)
    longest = int(census.lengths(shape.image_tokens, tokens.max_length).max())
    stream = max(stage.how.batch_tokens, longest) * memory.block(shape.decoder)
    return Work(
        f"answers and questions of {census.pictured:,.0f} rows with an image, four passes",
        flops=flops.forward(shape, seeing, towers=0)
        + flops.forward(shape, blind, towers=0)
        + 2 * flops.forward(shape, asked, towers=0)
        + flops.tower(shape.tower, towers * shape.tiles),
        bits=width,
        core_seconds=towers * census.decode,
        readers=max(1, model.hardware.workers),
        disk=8.0 * census.rows,
        scratch=24.0 * census.rows,
        host=4.0 * shape.parameters,
        device=(2 * shape.parameters + stream) * width / 8 + 3 * CHUNK_BYTES,
    )


@work.register
def _(stage: Relevance, context: Context) -> Work | None:
    """Two passes over the rows of a subset."""
    if not isinstance(stage.reference, Subset):
        return None
    model, tokens = stage.model, stage.model.tokens()
    census, shape = context.census(tokens), shape_of(model.start)
    rows = chosen(stage.reference, context)
    share = rows / census.rows
    load = answers_load(census, shape.image_tokens, tokens.max_length, images=True).times(share)
    towers = 0 if model.cache_vision else 2 * share * census.pictured
    width = bits(stage.precision)
    longest = int(census.lengths(shape.image_tokens, tokens.max_length).max())
    stream = max(stage.how.batch_tokens, longest) * memory.block(shape.decoder)
    return Work(
        f"answers of {rows:,} rows with their questions and without",
        flops=2 * flops.forward(shape, load, towers=0)
        + flops.tower(shape.tower, towers * shape.tiles),
        bits=width,
        core_seconds=towers * census.decode,
        readers=max(1, model.hardware.workers),
        disk=8.0 * census.rows,
        scratch=8.0 * rows * (len(STATISTICS) + 1),
        host=4.0 * shape.parameters,
        device=(2 * shape.parameters + stream) * width / 8 + 3 * CHUNK_BYTES,
    )


@work.register
def _(stage: TokenWeights, context: Context) -> Work:
    census = context.census(stage.tokens)
    tokens = census.scale * float(census.text.sum())
    return Work(
        f"parts of speech of {census.rows:,} rows",
        core_seconds=_TAGGED * tokens,
        disk=2.0 * tokens,
    )


@work.register
def _(stage: LossClusters, context: Context) -> Work:
    census = context.census(stage.answers.model.tokens())
    steps = steps_of(stage.answers, census.rows)
    k = clusters_of(stage.k, census.rows)
    return Work(
        f"k-means, {k:,} clusters of losses{' in every source' * stage.per_source}",
        core_seconds=flops.kmeans(census.rows, k, steps, stage.iterations) / CORE,
        disk=8.0 * census.rows,
        host=16.0 * census.rows * steps,
    )


@work.register
def _(stage: QuestionEmbeddings, context: Context) -> Work:
    """Of an encoder as large as all-MiniLM-L6-v2, whichever is named."""
    census = context.census(stage.pool)
    tokens = _ASKED * census.scale * float(census.text.sum())
    return Work(
        f"first questions of {census.rows:,} rows embedded",
        flops=2 * _ENCODER * tokens,
        disk=4.0 * ENCODED * census.rows,
        host=4.0 * ENCODED * census.rows,
    )
