"""The demo pool: a small instruction set with the faults of a large one.

Its sources differ in size by a factor of six, some things are named far more often than others,
many drawings are near-copies, some images are asked about twice, and a few rows have no image. What
was repeated on purpose is written to `truth.jsonl`, which no selector reads.
"""

import json
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from xmas.demo import draw
from xmas.demo import instructions as ask
from xmas.demo import rows as make
from xmas.demo.draw import Scene
from xmas.demo.instructions import Turn
from xmas.demo.material import Material, material
from xmas.demo.rows import SHARES, Row, record
from xmas.store import Stage, Store
from xmas.store.progress import bar


@dataclass(frozen=True)
class DemoPool(Stage):
    """`pool.json`, `truth.jsonl` beside it, and to pretrain on captions, drills, lessons, reviews.

    The drawings are in `images/`; what one pretrains on is about those of the captions.
    """

    kind: ClassVar[str] = "demo_pool"
    version: ClassVar[int] = 18

    seed: int = 0
    rows: int = 8000
    captions: int = 20000  # pretraining pairs, each with a drawing of its own
    dialogues: int = 2000  # pretraining conversations about scenes told in words, with the captions
    drills: int = 12000  # pretraining comparisons, mostly of single things told in words
    lessons: int = 7000  # pretraining comparisons, mostly with captions' drawings of single things
    reviews: int = 6500  # pretraining questions of more kinds about captions' drawings
    recalls: int = 4000  # among them, one question each, for the name or all that is drawn
    concepts: int = 150  # everyday things

    held_out: ClassVar[bool] = False  # side of the material that is drawn

    def compute(self, store: Store, out: Path) -> None:
        of = material(self.concepts, held_out=self.held_out)
        with bar(total=self.rows + self.captions, label="draw the demo pool") as progress:
            rows = []
            for number, (source, count) in enumerate(make.sizes(self.rows).items()):
                rng = np.random.default_rng([self.seed, number])
                (out / "images" / source).mkdir(parents=True, exist_ok=True)
                drawn = make.rows_of(source, count, of, rng)
                for row in drawn:
                    if row.scene is not None and row.asked_again_of is None:
                        draw.save(row.scene, out / "images" / row.image)
                    progress.update(1)
                rows.append(drawn)
            self._write(rows, out)
            self._pretraining(of, out, progress)

    def _pretraining(self, of: Material, out: Path, progress: Any) -> None:
        """Captions and dialogues, drills, lessons and reviews, to be learned in this order.

        LLaVA starts from Vicuna, which can say yes and no and choose a letter. A language model
        that starts from nothing learns that in drills about single things told in words. Lessons
        ask the same with an image, of colours only, and some of it in words still: what compares
        words then comes to compare with images. Without drills whether choices are learned, with
        an image, is a matter of chance. Reviews bring back what all this lets it forget.
        """
        rng = np.random.default_rng([self.seed, len(SHARES)])
        (out / "images" / "captions").mkdir(exist_ok=True)
        captions, scenes = [], []
        for number in range(self.captions):
            scene, image = make.any_scene(of, rng), f"captions/{number:06d}.png"
            draw.save(scene, out / "images" / image)
            told = Turn("caption", "", ask.caption(scene, rng), suffix="")
            captions.append(record(f"{number:06d}", [told], image))
            scenes.append((scene, image))
            progress.update(1)
        icons = [
            (scene, image)
            for scene, image in scenes
            if len(scene.items) == 1 and scene.items[0].mark.kind == "icon"
        ]
        rng = np.random.default_rng([self.seed, len(SHARES) + 2])
        captions += [self._dialogue(number, of, rng) for number in range(self.dialogues)]
        drills = [self._drill(number, scenes, of, rng) for number in range(self.drills)]
        lessons = [
            self._lesson(number, scene, image, of, rng)
            for number, (scene, image) in zip(range(self.lessons), cycle(icons), strict=False)
        ]
        reviews = [  # of the last drawings: lessons ask about the first
            record(f"review-{number:06d}", make.review(scene, of, rng), image)
            for number, (scene, image) in islice(
                enumerate(scenes), max(len(scenes) - self.reviews, 0), None
            )
        ]
        reviews += [
            record(f"recall-{number:06d}", [make.recall(scene, rng)], image)
            for number, (scene, image) in enumerate(scenes[: self.recalls])
        ]
        written = {"captions": captions, "drills": drills, "lessons": lessons, "reviews": reviews}
        for name, rows in written.items():
            (out / f"{name}.json").write_text(json.dumps(rows, indent=0))

    def _dialogue(self, number: int, of: Material, rng: np.random.Generator) -> dict[str, Any]:
        """Questions about a scene told in words, mostly those of the drills."""
        if rng.random() < 2 / 3:
            scene = draw.one(of, draw.pick(of.concepts, rng), rng)
            turns = make.lesson(scene, of, rng, two=1 / 3)[:4]
        else:
            scene, turns = make.comparing(of, rng)
        return record(f"dialogue-{number:06d}", make.told(scene, turns, rng), None)

    def _drill(
        self,
        number: int,
        scenes: list[tuple[Scene, str]],
        of: Material,
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        """A lesson in words; one in fifty describes a drawing, lest that is forgotten."""
        name = f"drill-{number:06d}"
        if number % 50 == 0:
            scene, image = draw.pick(scenes, rng)
            return record(name, [ask.describing(scene, rng)], image)
        scene = draw.one(of, draw.pick(of.concepts, rng), rng)
        turns = make.lesson(scene, of, rng, choices=0.65, two=0.7)[:4]
        return record(name, make.told(scene, turns, rng), None)

    def _lesson(
        self, number: int, scene: Scene, image: str, of: Material, rng: np.random.Generator
    ) -> dict[str, Any]:
        """A lesson with an image, or one time of five in words."""
        in_words = rng.random() < 0.2
        if in_words:
            scene = draw.one(of, draw.pick(of.concepts, rng), rng)
        turns = make.lesson(scene, of, rng, choices=0.7)
        if in_words:
            return record(f"lesson-{number:06d}", make.told(scene, turns, rng), None)
        return record(f"lesson-{number:06d}", turns, image)

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
