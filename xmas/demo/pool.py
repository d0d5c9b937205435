"""The demo pool: a small instruction set with the faults of a large one.

Its sources differ in size by a factor of six, some things are named far more often than others,
many drawings are near-copies, some images are asked about twice, and a few rows have no image. What
was repeated on purpose is written to `truth.jsonl`, which no selector reads.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from xmas.demo import draw
from xmas.demo import instructions as ask
from xmas.demo.instructions import Turn
from xmas.demo.material import Material, material
from xmas.demo.rows import SHARES, Row, any_scene, comparing, lesson, record, review, rows_of, sizes
from xmas.progress import bar
from xmas.store import Stage, Store


@dataclass(frozen=True)
class DemoPool(Stage):
    """`pool.json`, `truth.jsonl` beside it, and to pretrain on captions, lessons and reviews.

    The drawings are in `images/`; lessons and reviews ask about those of the captions.
    """

    kind: ClassVar[str] = "demo_pool"
    version: ClassVar[int] = 17

    seed: int = 0
    rows: int = 8000
    captions: int = 20000  # pretraining pairs, each with a drawing of its own
    dialogues: int = 6000  # pretraining conversations about scenes told in words
    lessons: int = 12500  # pretraining questions about captions' drawings of single things
    reviews: int = 9000  # pretraining questions of more kinds about captions' drawings
    concepts: int = 150  # everyday things

    held_out: ClassVar[bool] = False  # side of the material that is drawn

    def compute(self, store: Store, out: Path) -> None:
        of = material(self.concepts, held_out=self.held_out)
        with bar(total=self.rows + self.captions, label="draw the demo pool") as progress:
            rows = []
            for number, (source, count) in enumerate(sizes(self.rows).items()):
                rng = np.random.default_rng([self.seed, number])
                (out / "images" / source).mkdir(parents=True, exist_ok=True)
                drawn = rows_of(source, count, of, rng)
                for row in drawn:
                    if row.scene is not None and row.asked_again_of is None:
                        draw.save(row.scene, out / "images" / row.image)
                    progress.update(1)
                rows.append(drawn)
            self._write(rows, out)
            self._pretraining(of, out, progress)

    def _pretraining(self, of: Material, out: Path, progress: Any) -> None:
        """Captions and dialogues; lessons and reviews about the captions' drawings.

        LLaVA starts from Vicuna, which can say yes and no and choose a letter. A language model
        that starts from nothing learns that from dialogues about scenes told in words, then from
        lessons to do it with an image, of colours only. Reviews bring back what lessons let it
        forget, and let it compare other things than colours.
        """
        rng = np.random.default_rng([self.seed, len(SHARES)])
        (out / "images" / "captions").mkdir(exist_ok=True)
        captions, scenes = [], []
        for number in range(self.captions):
            scene, image = any_scene(of, rng), f"captions/{number:06d}.png"
            draw.save(scene, out / "images" / image)
            told = Turn("caption", "", ask.caption(scene, rng), suffix="")
            captions.append(record(f"{number:06d}", [told], image))
            scenes.append((scene, number, image))
            progress.update(1)
        captions += [self._dialogue(number, of, rng) for number in range(self.dialogues)]
        icons = [
            (scene, number, image)
            for scene, number, image in scenes
            if len(scene.items) == 1 and scene.items[0].mark.kind == "icon"
        ]
        rng = np.random.default_rng([self.seed, len(SHARES) + 2])
        lessons = [
            record(f"lesson-{number:06d}", lesson(scene, of, rng), image)
            for scene, number, image in icons[: self.lessons]
        ]
        reviews = [  # of the last drawings: lessons ask about the first
            record(f"review-{number:06d}", review(scene, of, rng), image)
            for scene, number, image in scenes[max(len(scenes) - self.reviews, 0) :]
        ]
        for name, rows in (("captions", captions), ("lessons", lessons), ("reviews", reviews)):
            (out / f"{name}.json").write_text(json.dumps(rows, indent=0))

    def _dialogue(self, number: int, of: Material, rng: np.random.Generator) -> dict[str, Any]:
        """Questions about a scene whose caption stands where the image would.

        Mostly those of the lessons: with many kinds of questions nothing is compared at the end.
        """
        if rng.random() < 2 / 3:
            scene = draw.one(of, draw.pick(of.concepts, rng), rng)
            turns = lesson(scene, of, rng, two=1 / 3)[:4]
        else:
            scene, turns = comparing(of, rng)
        first = replace(turns[0], question=f"{ask.caption(scene, rng)}\n{turns[0].question}")
        return record(f"dialogue-{number:06d}", [first, *turns[1:]], None)

    def _write(self, by_source: list[list[Row]], out: Path) -> None:
        """Pool and truth, the rows of all sources mixed."""
        rows = [row for drawn in by_source for row in drawn]
        order = np.random.default_rng([self.seed, len(SHARES) + 1]).permutation(len(rows))
        rows = [rows[place] for place in order]
        position = {id(row): place for place, row in enumerate(rows)}
        (out / "pool.json").write_text(json.dumps([row.record() for row in rows], indent=0))
        with (out / "truth.jsonl").open("w") as file:
            for place, row in enumerate(rows):
                file.write(json.dumps({"row": place, **row.truth(position)}) + "\n")


@dataclass(frozen=True)
class UnseenPool(DemoPool):
    """The same from the other side of the material: what the demo's benchmarks are drawn from.

    Other icon families, handwriting, shades, sizes and places: a pool to carry over to what was
    trained on the demo's. Never one to train on and then score on the demo's benchmarks.
    """

    held_out: ClassVar[bool] = True
