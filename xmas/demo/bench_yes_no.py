"""POPE and MME over held-out drawings: is it there, how many, where, which colour, which word.

Adversarial POPE asks for what looks most like a thing in the picture: drawings have no habits of
standing together as objects in photographs do, which POPE's own rule counts.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from xmas.demo import draw
from xmas.demo.draw import Scene, pick, shuffled
from xmas.demo.facts import row, several, write_lines
from xmas.demo.grammar import a, plural
from xmas.demo.instructions import NUMBERS, absent
from xmas.demo.material import COLOURS, WORDS, Material, mask_of
from xmas.evaluation.protocol import SHORT

_POPE_STEP = 10_000_000  # between the ids of two categories in LLaVA's file
MME_TASKS = ("existence", "count", "position", "color", "OCR")


ALIKE = {  # colours that are easily taken for one another
    "red": "orange pink",
    "orange": "red yellow",
    "yellow": "orange green",
    "green": "blue yellow",
    "blue": "purple green",
    "purple": "blue pink",
    "pink": "purple red",
    "black": "purple blue",
}


def pope(out: Path, of: Material, count: int, rng: np.random.Generator) -> None:
    """`count` questions of each category, two yes and two no for every picture.

    Of a single thing its colour and what it is are asked for, of two things both colours.
    """
    scenes = [
        draw.two(of, rng) if number % 2 else draw.one(of, pick(of.concepts, rng), rng)
        for number in range(max(1, count // 4))
    ]
    things = Counter(item.name for scene in scenes for item in scene.items)
    tints = Counter(item.colour for scene in scenes for item in scene.items)
    popular = {
        "thing": [name for name, _ in things.most_common(12)],
        "colour": [name for name, _ in tints.most_common()],
    }
    alike = look_alikes(of, 6)
    images = [f"COCO_val2014_{number:012d}.png" for number in range(1, len(scenes) + 1)]
    (out / "coco").mkdir()
    (out / "images").mkdir()
    for scene, image in zip(scenes, images, strict=True):
        draw.save(scene, out / "images" / image)
    asked = []
    for step, category in enumerate(("adversarial", "popular", "random"), start=1):
        labels = []
        for scene, image in zip(scenes, images, strict=True):
            shown = {
                "thing": [item.name for item in scene.items],
                "colour": [item.colour for item in scene.items],
            }
            taken: list[str] = []
            for what in ("colour", "thing" if len(scene.items) == 1 else "colour"):
                there = next(name for name in shown[what] if name not in taken)
                near = ALIKE[there].split() if what == "colour" else alike[there]
                other = {
                    "adversarial": near,
                    "popular": popular[what],
                    "random": shuffled(COLOURS if what == "colour" else of.concepts, rng),
                }[category]
                rest = shuffled(COLOURS, rng) if what == "colour" else []
                absent_one = next(
                    name for name in (*other, *rest) if name not in (*shown[what], *taken)
                )
                taken += [there, absent_one]
                for name, label in ((there, "yes"), (absent_one, "no")):
                    told = f"something {name}" if what == "colour" else a(name)
                    labels.append(
                        {
                            "question_id": len(labels) + 1,
                            "image": image,
                            "text": f"Is there {told} in the image?",
                            "label": label,
                        }
                    )
        write_lines(out / "coco" / f"coco_pope_{category}.json", labels)
        asked += [
            row(
                step * _POPE_STEP + each["question_id"],
                each["image"],
                each["text"] + SHORT,
                category,
            )
            for each in labels
        ]
    write_lines(out / "llava_pope_test.jsonl", asked)


def look_alikes(of: Material, count: int) -> dict[str, list[str]]:
    """For every thing, the `count` others whose drawings cover the most similar pixels."""
    boards = []
    for name in of.concepts:
        board = np.zeros((24, 24))
        for mark in of.marks("icon", name):
            ink = np.asarray(mask_of(mark, 24), dtype=float) / 255
            top, left = (24 - ink.shape[0]) // 2, (24 - ink.shape[1]) // 2
            board[top : top + ink.shape[0], left : left + ink.shape[1]] += ink
        boards.append((board / np.linalg.norm(board)).ravel())
    likeness = np.stack(boards) @ np.stack(boards).T
    np.fill_diagonal(likeness, -1)
    order = np.argsort(-likeness, axis=1, kind="stable")[:, :count]
    return {
        name: [of.concepts[int(other)] for other in others]
        for name, others in zip(of.concepts, order, strict=True)
    }


def mme(out: Path, of: Material, count: int, rng: np.random.Generator) -> None:
    """Five tasks of MME, about `count` questions in all: two a picture, the first true.

    The tasks lie flat, picture and text side by side, as these five do in MME's release.
    """
    release = out / "MME_Benchmark_release_version"
    asked = []
    for task in MME_TASKS:
        (release / task).mkdir(parents=True)
        for number in range(1, max(1, count // (2 * len(MME_TASKS))) + 1):
            scene, true, false = _true_and_false(task, of, rng)
            image = f"{number:06d}.png"
            draw.save(scene, release / task / image)
            lines = [
                f"{question} Please answer yes or no.\t{answer}\n"
                for question, answer in ((true, "Yes"), (false, "No"))
            ]
            (release / task / f"{number:06d}.txt").write_text("".join(lines))
            place = f"{task}/{image}"
            asked += [row(place, place, question + SHORT, task) for question in (true, false)]
    write_lines(out / "llava_mme.jsonl", asked)


def _true_and_false(task: str, of: Material, rng: np.random.Generator) -> tuple[Scene, str, str]:
    """A scene, a question whose answer is yes, and one whose answer is no."""
    if task == "OCR":
        scene = draw.written(of, "word", rng)
        word = scene.items[0].name
        other = pick([each for each in WORDS if each != word], rng)
        said = 'Is the word in the picture "{}"?'
        return scene, said.format(word), said.format(other)
    if task == "count":
        count = int(rng.integers(1, 10))
        scene = several(of, count, rng)
        other = pick([each for each in range(1, 10) if each != count], rng)
        thing = scene.items[0].name
        return scene, _there_are(count, thing), _there_are(other, thing)
    if task == "position":
        scene = draw.two(of, rng)
        assert scene.relation is not None  # it has two things
        first, second = (item.name for item in scene.items)
        if rng.integers(2):
            where = {"left": "on the left side of", "above": "above"}[scene.relation]
        else:
            first, second = second, first
            where = {"left": "on the right side of", "above": "below"}[scene.relation]
        said = "Is the {} {} the {}?"
        return scene, said.format(first, where, second), said.format(second, where, first)
    scene = draw.two(of, rng) if rng.integers(2) else draw.one(of, pick(of.concepts, rng), rng)
    item = pick(scene.items, rng)
    if task == "color":
        other = pick([each for each in COLOURS if each != item.colour], rng)
        said = "Is the color of the {} {}?"
        return scene, said.format(item.name, item.colour), said.format(item.name, other)
    other = absent({each.name for each in scene.items}, of, rng)
    said = "Is there {} in this image?"
    return scene, said.format(a(item.name)), said.format(a(other))


def _there_are(count: int, thing: str) -> str:
    if count == 1:
        return f"Is there only one {thing} in the image?"
    return f"Are there {NUMBERS[count]} {plural(thing)} in the image?"
