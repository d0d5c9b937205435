"""Benchmark files of the demo, in the official formats, from drawings that no model is trained on.

One folder per benchmark, laid out like the official download, so that the scorers read the demo and
the real files alike. Held out are glyph families, shades, sizes, handwritten digits, and pairs of
word and font (`xmas.demo.material`).
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from xmas.demo.bench_choice import mmbench, sqa
from xmas.demo.bench_open import llava_wild, mmvet
from xmas.demo.bench_vqa import gqa, textvqa, vizwiz, vqav2
from xmas.demo.bench_yes_no import mme, pope
from xmas.demo.material import Material, material
from xmas.store import Stage, Store
from xmas.store.progress import bar


def _mmbench_cn(out: Path, of: Material, count: int, rng: np.random.Generator) -> None:
    mmbench(out, of, count, rng, chinese=True)


Writer = Callable[[Path, Material, int, np.random.Generator], None]


@dataclass(frozen=True)
class Spec:
    """How the files of one benchmark are written, and their averages per question.

    Args:
        write: writes a number of questions into a folder.
        scale: this number, as a multiple of `DemoBench.questions`.
        questions: in the files, for each of that number.
        with_image: share of the questions that have an image, counted at 300 questions.
        images: distinct images per question, counted at 300 questions.
    """

    write: Writer
    scale: float
    questions: int = 1
    with_image: float = 1.0
    images: float = 1.0


WRITERS = {
    "gqa": Spec(gqa, 2.0),
    "pope": Spec(pope, 1.0, questions=3, images=1 / 8),  # one for each of its categories
    "mme": Spec(mme, 2.0, images=1 / 2),
    "mmbench": Spec(mmbench, 2.0, images=0.43),  # rows: a question has one for each option
    "mmbench_cn": Spec(_mmbench_cn, 1 / 3, images=0.43),
    "sqa": Spec(sqa, 1 / 3, with_image=0.67, images=0.67),
    "textvqa": Spec(textvqa, 1 / 3, images=0.5),
    "vqav2_val": Spec(vqav2, 1 / 3, images=0.55),
    "vizwiz_val": Spec(vizwiz, 1 / 3),
    "llava_wild": Spec(llava_wild, 0.2),
    "mmvet": Spec(mmvet, 0.2),
}


@dataclass(frozen=True)
class DemoBench(Stage):
    """A folder for each benchmark of `WRITERS`.

    Args:
        concepts: the number of things that may be drawn, as in the pool: others are not asked for.
        questions: the scale of all benchmarks.
    """

    kind: ClassVar[str] = "demo_bench"
    version: ClassVar[int] = 6

    seed: int = 0
    concepts: int = 100
    questions: int = 300

    def compute(self, store: Store, out: Path) -> None:
        of = material(self.concepts, held_out=True)
        specs = bar(WRITERS.items(), label="draw the demo benchmarks", unit="benchmark")
        for number, (name, spec) in enumerate(specs):
            shutil.rmtree(out / name, ignore_errors=True)  # of an interrupted attempt
            (out / name).mkdir()
            rng = np.random.default_rng([self.seed, 1000 + number])
            spec.write(out / name, of, max(1, int(spec.scale * self.questions)), rng)
