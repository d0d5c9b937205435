"""What answering a benchmark costs: its prompts, then one decode step after another.

Prompts are bound by FLOPs. A decode step reads all weights for one token of every question in the
batch, so it is bound by the memory's bandwidth, or by the host, which launches its kernels one by
one; CUDA graphs launch them all at once. Counts and times: `experiments/generation`.
"""

import math

from xmas.estimate import flops, memory
from xmas.estimate.assumed import Assumed
from xmas.estimate.flops import Load
from xmas.estimate.per_stage.fits import bits
from xmas.estimate.question_counts import QuestionCounts, count_questions
from xmas.estimate.work import Context, Phase, Work, work
from xmas.evaluation.generation.endpoint_generation import EndpointGeneration
from xmas.evaluation.generation.settings import Generation
from xmas.evaluation.given_answers import OfGivenAnswers
from xmas.evaluation.protocol import Judged
from xmas.evaluation.scores import Score
from xmas.models.shape import Shape, shape_of

_LINE = 250  # bytes of an answer line, measured on the demo
_KERNELS = {16: 40, 32: 36}  # of a layer of the language model, by bits; counted
_OTHER_KERNELS = 33  # of a pass: embedding, positions, last norm, head, greedy token; counted
_TOWER_KERNELS = 15  # of a layer of the vision tower; counted
_REPLAY = 3  # a graph, the copy of its inputs, and of its token to the host
_PASS_TOKENS, _PASS_IMAGES, _REFILL = 8192, 32, 0.25  # of `ContinuousBatch`


@work.register
def _(stage: Score, context: Context) -> Work:
    if isinstance(stage.benchmark, OfGivenAnswers):  # their losses are a stage of their own
        rows = context.census(stage.benchmark.scored_rows()).rows
        return Work(f"{stage.benchmark.name}: the answers of {rows:,} rows", disk=3000.0)
    counts = count_questions(stage.benchmark, context.store)
    shape = shape_of(stage.target.start)
    assumed = context.assumed
    typical = assumed.essay if isinstance(stage.benchmark, Judged) else assumed.answer
    new = min(typical, stage.benchmark.max_new_tokens)
    if isinstance(stage.generation, EndpointGeneration):
        return _asking(
            stage.benchmark.name, stage.generation.name, counts, shape, assumed.question, new
        )
    has_graphs = context.hardware.accelerator != "cpu" and stage.generation.graphs
    return answering(
        f"{stage.benchmark.name}: {counts.questions:,} questions {counts.how}",
        shape,
        counts,
        stage.generation,
        new=new,
        has_graphs=has_graphs,
        assumed=assumed,
    )


def _asking(
    benchmark: str, server: str, counts: QuestionCounts, shape: Shape, question: float, new: float
) -> Work:
    """What a server answers costs nothing here but its answer lines."""
    prompts = counts.questions * question + counts.pictured * shape.image_tokens
    return Work(
        f"{benchmark}: {counts.questions:,} requests {counts.how} to endpoint "
        f"{server}, {prompts / 1e6:,.2f} M tokens of prompts and "
        f"{counts.questions * new / 1e6:,.2f} M of answers, at the server's speed and price",
        disk=float(_LINE * counts.questions),
    )


def answering(
    what: str,
    shape: Shape,
    counts: QuestionCounts,
    generation: Generation,
    *,
    new: float,
    has_graphs: bool,
    assumed: Assumed,
) -> Work:
    """Answers of `new` tokens to all questions; an image passes the tower once.

    Args:
        has_graphs: a decode step is one launch.
        assumed: for the length of a question, and seconds of a core an image and a launch.
    """
    precision, batch = bits(generation.precision), generation.batch
    blind = assumed.question
    length = blind + shape.image_tokens
    without = counts.questions - counts.pictured
    whole = Load(
        rows=counts.questions,
        tokens=counts.pictured * length + without * blind,
        squares=counts.pictured * length**2 + without * blind**2,
        images=counts.pictured,
    )
    prompts = whole
    if batch > 1 and counts.images and not shape.whole:  # the tokens of an image are computed once
        prompts = whole.sharing(shape.image_tokens, counts.pictured / counts.images)
    steps = math.ceil(counts.questions / batch) * new
    decoding = Phase(
        flops=flops.decoding(shape.decoder, whole, new=new),
        traffic=steps * shape.decoder.parameters * precision / 8
        + new * whole.tokens * memory.of_cached_token(shape.decoder, precision),
        launching=steps * _launches(shape, precision, has_graphs) * assumed.launch,
    )
    passes, tower_passes = _passes(prompts, counts, batch)
    prefill = flops.prefill(
        shape, prompts, towers=counts.pictured if shape.whole else counts.images
    )
    kernels = passes * _launches(shape, precision, False)
    kernels += tower_passes * _TOWER_KERNELS * shape.tower.layers
    return Work(
        what + shape.path,
        flops=prefill + decoding.flops,
        bits=precision,
        traffic=passes * shape.decoder.parameters * precision / 8 + decoding.traffic,
        launching=kernels * assumed.launch + decoding.launching,
        decoding=decoding,
        core_seconds=counts.images * assumed.decode,
        disk=float(_LINE * counts.questions),
        host=4.0 * shape.parameters,
        device=memory.of_generation(shape, tokens=batch * (length + new), bits=precision),
    )


def _launches(shape: Shape, precision: int, has_graphs: bool) -> float:
    """Launches of a pass of the language model."""
    if has_graphs:
        return _REPLAY
    return _KERNELS[precision] * shape.decoder.layers + _OTHER_KERNELS


def _passes(prompts: Load, counts: QuestionCounts, batch: int) -> tuple[float, float]:
    """Passes of prompts through the language model, and of images through the tower."""
    if batch == 1:
        return counts.questions, counts.images
    admitted = max(1.0, _REFILL * batch)  # questions, at least
    passes = max(prompts.tokens / _PASS_TOKENS, counts.questions / admitted)
    return passes, counts.images / min(_PASS_IMAGES, admitted)
