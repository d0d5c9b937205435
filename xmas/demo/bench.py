"""Benchmark files of the demo, in the official formats, from drawings that nobody trained on.

A folder a benchmark, laid out like the official downloads, so that the scorers read the demo and
the real files alike. What is held out: glyph families, shades, sizes, handwritten digits, and pairs
of word and font (`xmas.demo.material`).
"""

import shutil
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


WRITERS = {  # with how many questions, as a multiple of DemoBench.questions
    "gqa": (gqa, 2.0),
    "pope": (pope, 1.0),  # of each of its three categories
    "mme": (mme, 2.0),
    "mmbench": (mmbench, 2.0),  # rows: a question has one for each of its options
    "mmbench_cn": (_mmbench_cn, 1 / 3),
    "sqa": (sqa, 1 / 3),
    "textvqa": (textvqa, 1 / 3),
    "vqav2_val": (vqav2, 1 / 3),
    "vizwiz_val": (vizwiz, 1 / 3),
    "llava_wild": (llava_wild, 0.2),
    "mmvet": (mmvet, 0.2),
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
        for number, (name, (write, times)) in enumerate(listed):
            shutil.rmtree(out / name, ignore_errors=True)  # what an interrupted attempt left
            (out / name).mkdir()
            rng = np.random.default_rng([self.seed, 1000 + number])
            write(out / name, of, max(1, int(times * self.questions)), rng)
