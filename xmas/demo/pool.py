"""The demo pool: a small instruction set with the faults of a large one.

Its sources differ in size by a factor of six, some things are named far more often than others,
many drawings are near-copies, some images have two rows, and a few rows have no image. The
repetitions are recorded in `truth.jsonl`, which no selector reads.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from xmas.demo import draw, pretraining
from xmas.demo import instructions as ask
from xmas.demo.instructions import Turn
from xmas.demo.material import Material, material
from xmas.demo.rows import SHARES, Row, record, rows_of, sizes
from xmas.demo.scenes import any_scene
from xmas.store import Stage, Store
from xmas.store.progress import bar


@dataclass(frozen=True)
class DemoPool(Stage):
    """The demo's pool, and the pools that its start point is pretrained on.

    Writes `pool.json` and `truth.jsonl`; `captions.json` for the tower; to pretrain on, in this
    order, `facts.json`, `claims.json`, `choices.json` and `reviews.json`, about the drawings of the
    captions or in words (`xmas.demo.pretraining`); all drawings in `images/`.

    Args:
        rows: of the pool.
        captions: pretraining pairs, each about another drawing.
        facts: pretraining rows that ask for what is there.
        claims: pretraining rows that ask whether something is there, mostly in words.
        choices: pretraining rows with lettered options, mostly in words.
        reviews: pretraining rows of all these kinds.
        concepts: everyday things that are drawn.
    """

    kind: ClassVar[str] = "demo_pool"
    version: ClassVar[int] = 20

    seed: int = 0
    rows: int = 4000
    captions: int = 12000
    facts: int = 3500
    claims: int = 5000
    choices: int = 5000
    reviews: int = 5500
    concepts: int = 100

    held_out: ClassVar[bool] = False  # side of the material

    def compute(self, store: Store, out: Path) -> None:
        of = material(self.concepts, held_out=self.held_out)
        with bar(total=self.rows + self.captions, label="draw the demo pool") as progress:
            rows = []
            for number, (source, count) in enumerate(sizes(self.rows).items()):
                rng = np.random.default_rng([self.seed, number])
                (out / "images" / source).mkdir(parents=True, exist_ok=True)
                of_source = rows_of(source, count, of, rng)
                for row in of_source:
                    if row.scene is not None and row.asked_again_of is None:
                        draw.save(row.scene, out / "images" / row.image)
                    progress.update(1)
                rows.append(of_source)
            self._write(rows, out)
            self._pretraining(of, out, progress)

    def _pretraining(self, of: Material, out: Path, progress: Any) -> None:
        """Captions with their drawings, and rows about them or in words."""
        rng = np.random.default_rng([self.seed, len(SHARES)])
        (out / "images" / "captions").mkdir(exist_ok=True)
        captions, drawings = [], []
        for number in range(self.captions):
            scene, image = any_scene(of, rng), f"captions/{number:06d}.png"
            draw.save(scene, out / "images" / image)
            turn = Turn("caption", "", ask.caption(scene, rng), suffix="")
            captions.append(record(f"{number:06d}", [turn], image))
            drawings.append((scene, image))
            progress.update(1)
        files = {"captions": captions}
        for place, kind in enumerate(pretraining.SHARES):
            rng = np.random.default_rng([self.seed, len(SHARES) + 2, place])
            files[kind] = [
                record(f"{kind}-{number:06d}", *pretraining.row(kind, drawings, of, rng))
                for number in range(getattr(self, kind))
            ]
        for name, rows in files.items():
            (out / f"{name}.json").write_text(json.dumps(rows, indent=0))

    def _write(self, by_source: list[list[Row]], out: Path) -> None:
        """Pool and truth, the rows of all sources mixed."""
        rows = [row for of_source in by_source for row in of_source]
        order = np.random.default_rng([self.seed, len(SHARES) + 1]).permutation(len(rows))
        rows = [rows[place] for place in order]
        position = {id(row): place for place, row in enumerate(rows)}
        (out / "pool.json").write_text(json.dumps([row.record() for row in rows], indent=0))
        with (out / "truth.jsonl").open("w") as file:
            for place, row in enumerate(rows):
                file.write(json.dumps({"row": place, **row.truth(position)}) + "\n")


@dataclass(frozen=True)
class UnseenPool(DemoPool):
    """A demo pool of the held-out material, from which the demo's benchmarks are drawn.

    It has other icon families, handwriting, shades, sizes and places, to transfer selectors trained
    on the demo pool to. Models that train on it must not be scored on the demo's benchmarks.
    """

    held_out: ClassVar[bool] = True
