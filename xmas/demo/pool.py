"""The demo pool: a small instruction set with the faults of a large one.

Its sources differ in size by a factor of six, some things are named far more often than others,
many drawings are near-copies, some images have two rows, and a few rows have no image. The
repetitions are recorded in `truth.jsonl`, which no selector reads.
"""

import json
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from xmas.demo import draw, pretraining
from xmas.demo import instructions as ask
from xmas.demo.draw import Scene
from xmas.demo.instructions import Turn
from xmas.demo.material import Material, material
from xmas.demo.rows import SHARES, Row, record, rows_of, sizes
from xmas.demo.scenes import any_scene
from xmas.store import Stage, Store
from xmas.store.progress import bar


@dataclass(frozen=True)
class DemoPool(Stage):
    """The demo's pool, and the pools that its start point is pretrained on.

    Writes `pool.json` and `truth.jsonl`; to pretrain on, `captions.json`, `drills.json`,
    `lessons.json` and `reviews.json`, about the drawings of the captions; all drawings in
    `images/`.

    Args:
        rows: of the pool.
        captions: pretraining pairs, each about another drawing.
        dialogues: pretraining conversations about scenes described in words, in `captions.json`.
        drills: pretraining comparisons, mostly of single things described in words.
        lessons: pretraining comparisons, mostly about the captions' drawings of single things.
        reviews: pretraining questions of more kinds about the captions' drawings.
        recalls: in `reviews.json`, one question each, for the name or the whole content.
        concepts: everyday things that are drawn.
    """

    kind: ClassVar[str] = "demo_pool"
    version: ClassVar[int] = 18

    seed: int = 0
    rows: int = 8000
    captions: int = 20000
    dialogues: int = 2000
    drills: int = 12000
    lessons: int = 7000
    reviews: int = 6500
    recalls: int = 4000
    concepts: int = 150

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
        """Captions and dialogues, drills, lessons and reviews, to be trained on in this order.

        LLaVA starts from Vicuna, which answers yes or no and chooses a letter. A randomly
        initialised language model learns this in drills about single things described in words.
        Lessons ask the same with an image, about colours only, and partly still in words: the
        comparison of words then carries over to images. Without drills it depends on chance whether
        choices about an image are learned. Reviews repeat what the model forgets meanwhile.
        """
        rng = np.random.default_rng([self.seed, len(SHARES)])
        (out / "images" / "captions").mkdir(exist_ok=True)
        captions, scenes = [], []
        for number in range(self.captions):
            scene, image = any_scene(of, rng), f"captions/{number:06d}.png"
            draw.save(scene, out / "images" / image)
            turn = Turn("caption", "", ask.caption(scene, rng), suffix="")
            captions.append(record(f"{number:06d}", [turn], image))
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
            record(f"review-{number:06d}", pretraining.review(scene, of, rng), image)
            for number, (scene, image) in islice(
                enumerate(scenes), max(len(scenes) - self.reviews, 0), None
            )
        ]
        reviews += [
            record(f"recall-{number:06d}", [pretraining.recall(scene, rng)], image)
            for number, (scene, image) in enumerate(scenes[: self.recalls])
        ]
        files = {"captions": captions, "drills": drills, "lessons": lessons, "reviews": reviews}
        for name, rows in files.items():
            (out / f"{name}.json").write_text(json.dumps(rows, indent=0))

    def _dialogue(self, number: int, of: Material, rng: np.random.Generator) -> dict[str, Any]:
        """Questions about a scene described in words, mostly those of the drills."""
        if rng.random() < 2 / 3:
            scene = draw.one(of, draw.pick(of.concepts, rng), rng)
            turns = pretraining.lesson(scene, of, rng, two=1 / 3)[:4]
        else:
            scene, turns = pretraining.comparing(of, rng)
        return record(f"dialogue-{number:06d}", pretraining.in_words(scene, turns, rng), None)

    def _drill(
        self,
        number: int,
        scenes: list[tuple[Scene, str]],
        of: Material,
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        """A lesson in words; every fiftieth describes a drawing, or the model forgets how to."""
        name = f"drill-{number:06d}"
        if number % 50 == 0:
            scene, image = draw.pick(scenes, rng)
            return record(name, [ask.describing(scene, rng)], image)
        scene = draw.one(of, draw.pick(of.concepts, rng), rng)
        turns = pretraining.lesson(scene, of, rng, choices=0.65, two=0.7)[:4]
        return record(name, pretraining.in_words(scene, turns, rng), None)

    def _lesson(
        self, number: int, scene: Scene, image: str, of: Material, rng: np.random.Generator
    ) -> dict[str, Any]:
        """A lesson with an image, or in one of five cases in words."""
        in_words = rng.random() < 0.2
        if in_words:
            scene = draw.one(of, draw.pick(of.concepts, rng), rng)
        turns = pretraining.lesson(scene, of, rng, choices=0.7)
        if in_words:
            return record(f"lesson-{number:06d}", pretraining.in_words(scene, turns, rng), None)
        return record(f"lesson-{number:06d}", turns, image)

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
