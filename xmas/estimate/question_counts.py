"""How many questions a benchmark has, about how many images: counted, official or configured."""

import dataclasses

from xmas.demo.bench import WRITERS, DemoBench
from xmas.evaluation.facts import facts_of
from xmas.evaluation.protocol import Benchmark
from xmas.evaluation.quick import Quick
from xmas.store import Store, nearest_stages


@dataclasses.dataclass(frozen=True)
class QuestionCounts:
    """Counts of a benchmark, and where they come from."""

    questions: int
    pictured: int  # questions with an image
    images: int  # distinct ones
    how: str


def count_questions(benchmark: Benchmark, store: Store) -> QuestionCounts:
    """The counts of a benchmark, without computing any stage.

    Raises:
        ValueError: there is no official count, and its files are neither there nor the demo's.
    """
    if isinstance(benchmark, Quick):
        return _sampled(count_questions(benchmark.whole, store), benchmark.size)
    official: int | None = getattr(benchmark, "count", None)
    if official is not None:
        facts = facts_of(benchmark)
        pictured = facts.with_image or official
        return QuestionCounts(official, pictured, facts.images or pictured, "(official)")
    makers = list(nearest_stages(benchmark))
    if all(store.path(maker).exists() for maker in makers):
        questions = benchmark.asked(store)
        images = [question.image for question in questions if question.image is not None]
        return QuestionCounts(len(questions), len(images), len(set(images)), "(counted)")
    for maker in makers:
        if isinstance(maker, DemoBench):
            writer = WRITERS[benchmark.name]
            count = round(writer.questions * writer.scale * maker.questions)
            pictured, distinct = round(writer.with_image * count), round(writer.images * count)
            return QuestionCounts(count, pictured, distinct, "(as configured)")
    raise ValueError(f"{benchmark.name}: the number of its questions is unknown; set its `count`")


def _sampled(whole: QuestionCounts, size: int) -> QuestionCounts:
    """A sample of the questions: an image is left out if none of its questions is drawn."""
    if size >= whole.questions:
        return dataclasses.replace(whole, how="(drawn)")
    share = size / whole.questions
    per_image = whole.pictured / max(1, whole.images)
    images = whole.images * (1 - (1 - share) ** per_image)
    return QuestionCounts(size, round(share * whole.pictured), round(images), "(drawn)")
