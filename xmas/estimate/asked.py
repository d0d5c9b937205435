"""How many questions a benchmark asks, about how many images: counted, official or configured."""

import dataclasses

from xmas.demo.bench import WRITERS, DemoBench
from xmas.estimate.plan import held
from xmas.evaluation.protocol import Benchmark
from xmas.evaluation.quick import Quick
from xmas.store import Store

_OFFICIAL = {  # different images; each question has its own where a benchmark is not named
    "gqa": 398,
    "pope": 500,
    "mme": 1187,
    "mmbench": 1176,  # groups of rows; some share a picture
    "mmbench_cn": 1176,
    "textvqa": 3166,
    "textvqa_noocr": 3166,
    "vqav2_val": 40_504,
    "llava_wild": 24,
    "mmvet": 200,
}
_DRAWN = {  # of a question of the demo: images with one, different images; counted at 300
    "pope": (1.0, 1 / 12),
    "mme": (1.0, 1 / 2),
    "mmbench": (1.0, 0.32),
    "mmbench_cn": (1.0, 0.32),
    "sqa": (0.67, 0.67),
    "textvqa": (1.0, 0.5),
    "vqav2_val": (1.0, 0.55),
}


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
    name, official = benchmark.name, getattr(benchmark, "count", None)
    if official is not None:
        pictured: int = getattr(benchmark, "with_image", None) or official
        return Asked(official, pictured, _OFFICIAL.get(name, pictured), "(official)")
    makers = list(held(benchmark))
    if all(store.path(maker).exists() for maker in makers):
        shown = [question.image for question in benchmark.asked(store)]
        seen = [image for image in shown if image is not None]
        return Asked(len(shown), len(seen), len(set(seen)), "(counted)")
    for maker in makers:
        if isinstance(maker, DemoBench):
            times = 3.0 if name == "pope" else WRITERS[name][1]
            count = round(times * maker.questions)
            pictured, images = (round(each * count) for each in _DRAWN.get(name, (1.0, 1.0)))
            return Asked(count, pictured, images, "(as configured)")
    raise ValueError(f"{name}: nobody says how many questions it has; set its `count`")


def _drawn(whole: Asked, size: int) -> Asked:
    """Some of the questions: an image is missed where none of its questions is drawn."""
    if size >= whole.questions:
        return dataclasses.replace(whole, how="(drawn)")
    share = size / whole.questions
    each = whole.pictured / max(1, whole.images)
    seen = whole.images * (1 - (1 - share) ** each)
    return Asked(size, round(share * whole.pictured), round(seen), "(drawn)")
