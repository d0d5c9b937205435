"""How many questions a benchmark asks, about how many images: counted, official or configured."""

import dataclasses

from xmas.demo.bench import WRITERS, DemoBench
from xmas.evaluation.facts import facts_of
from xmas.evaluation.protocol import Benchmark
from xmas.evaluation.quick import Quick
from xmas.store import Store, nearest_stages


@dataclasses.dataclass(frozen=True)
class Asked:
    """Counts of a benchmark, and who says so."""

    questions: int
    pictured: int  # of them show an image
    images: int  # different ones
    how: str


def asked(benchmark: Benchmark, store: Store) -> Asked:
    """Raises ValueError: nobody says how many questions the benchmark has."""
    if isinstance(benchmark, Quick):
        return _drawn(asked(benchmark.whole, store), benchmark.size)
    official: int | None = getattr(benchmark, "count", None)
    if official is not None:
        facts = facts_of(benchmark)
        pictured = facts.with_image or official
        return Asked(official, pictured, facts.images or pictured, "(official)")
    makers = list(nearest_stages(benchmark))
    if all(store.path(maker).exists() for maker in makers):
        shown = [question.image for question in benchmark.asked(store)]
        seen = [image for image in shown if image is not None]
        return Asked(len(shown), len(seen), len(set(seen)), "(counted)")
    for maker in makers:
        if isinstance(maker, DemoBench):
            drawn = WRITERS[benchmark.name]
            count = round(drawn.questions * drawn.scale * maker.questions)
            with_image, images = round(drawn.with_image * count), round(drawn.images * count)
            return Asked(count, with_image, images, "(as configured)")
    raise ValueError(f"{benchmark.name}: nobody says how many questions it has; set its `count`")


def _drawn(whole: Asked, size: int) -> Asked:
    """Some of the questions: an image is missed where none of its questions is drawn."""
    if size >= whole.questions:
        return dataclasses.replace(whole, how="(drawn)")
    share = size / whole.questions
    each = whole.pictured / max(1, whole.images)
    seen = whole.images * (1 - (1 - share) ** each)
    return Asked(size, round(share * whole.pictured), round(seen), "(drawn)")
