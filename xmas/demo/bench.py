"""Benchmark files of the demo, in the official formats, from drawings that nobody trained on.

A folder a benchmark, laid out like the official downloads, so that the scorers read the demo and
the real files alike. What is held out: glyph families, shades, sizes, handwritten digits, and pairs
of word and font (`xmas.demo.material`).
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
class Drawn:
    """How the files of one benchmark are drawn, and what a question of them has on average."""

    write: Writer
    scale: float  # what the writer is asked for, as a multiple of DemoBench.questions
    questions: int = 1  # for each of those
    with_image: float = 1.0  # share of the questions
    images: float = 1.0  # distinct ones a question; counted at 300, as is `with_image`


WRITERS = {
    "gqa": Drawn(gqa, 2.0),
    "pope": Drawn(pope, 1.0, questions=3, images=1 / 12),  # one for each of its categories
    "mme": Drawn(mme, 2.0, images=1 / 2),
    "mmbench": Drawn(mmbench, 2.0, images=0.32),  # rows: a question has one for each option
    "mmbench_cn": Drawn(_mmbench_cn, 1 / 3, images=0.32),
    "sqa": Drawn(sqa, 1 / 3, with_image=0.67, images=0.67),
    "textvqa": Drawn(textvqa, 1 / 3, images=0.5),
    "vqav2_val": Drawn(vqav2, 1 / 3, images=0.55),
    "vizwiz_val": Drawn(vizwiz, 1 / 3),
    "llava_wild": Drawn(llava_wild, 0.2),
    "mmvet": Drawn(mmvet, 0.2),
}


@dataclass(frozen=True)
class DemoBench(Stage):
    """A folder for each benchmark of `WRITERS`; `questions` sets the scale."""

    kind: ClassVar[str] = "demo_bench"
    version: ClassVar[int] = 5

    seed: int = 0
    concepts: int = 150  # the pool's: what it does not name is not asked for
    questions: int = 300

    def compute(self, store: Store, out: Path) -> None:
        of = material(self.concepts, held_out=True)
        listed = bar(WRITERS.items(), label="draw the demo benchmarks", unit="benchmark")
        for number, (name, drawn) in enumerate(listed):
            shutil.rmtree(out / name, ignore_errors=True)  # what an interrupted attempt left
            (out / name).mkdir()
            rng = np.random.default_rng([self.seed, 1000 + number])
            drawn.write(out / name, of, max(1, int(drawn.scale * self.questions)), rng)
