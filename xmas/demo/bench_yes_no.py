"""POPE and MME over held-out drawings: is it there, how many, where, which colour, which word.

Adversarial POPE asks for the thing that looks most like one in the picture. POPE's own rule counts
which objects occur together in photographs; things in drawings occur together at random.
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


ALIKE = {  # colours that are easily confused
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
    """`count` questions of each category, as many yes as no for every picture."""
    subjects = [subject for four in range(max(1, count // 4)) for subject in _four(four, of, rng)]
    scenes = [scene for scene, _ in subjects]
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
    questions = []
    for step, category in enumerate(("adversarial", "popular", "random"), start=1):
        labels = []
        for (scene, aspects), image in zip(subjects, images, strict=True):
            present = {
                "thing": [item.name for item in scene.items],
                "colour": [item.colour for item in scene.items],
            }
            used: list[str] = []
            for aspect in aspects:
                present_name = next(name for name in present[aspect] if name not in used)
                similar = ALIKE[present_name].split() if aspect == "colour" else alike[present_name]
                candidates = {
                    "adversarial": similar,
                    "popular": popular[aspect],
                    "random": shuffled(COLOURS if aspect == "colour" else of.concepts, rng),
                }[category]
                # Few questions name few things; then any other is absent too.
                rest = shuffled(COLOURS, rng) if aspect == "colour" else of.concepts
                absent_name = next(
                    name for name in (*candidates, *rest) if name not in (*present[aspect], *used)
                )
                used += [present_name, absent_name]
                for name, label in ((present_name, "yes"), (absent_name, "no")):
                    subject = f"something {name}" if aspect == "colour" else a(name)
                    labels.append(
                        {
                            "question_id": len(labels) + 1,
                            "image": image,
                            "text": f"Is there {subject} in the image?",
                            "label": label,
                        }
                    )
        write_lines(out / "coco" / f"coco_pope_{category}.json", labels)
        questions += [
            row(
                step * _POPE_STEP + label_row["question_id"],
                label_row["image"],
                label_row["text"] + SHORT,
                category,
            )
            for label_row in labels
        ]
    write_lines(out / "llava_pope_test.jsonl", questions)


def _four(
    number: int, of: Material, rng: np.random.Generator
) -> list[tuple[Scene, tuple[str, ...]]]:
    """Scenes for four questions, with what is asked for: a yes and a no for every aspect.

    Two things by their colours, a single thing by colour and by name, or two by colour: names have
    a smaller share than in POPE, since the demo's model learns to check colours alone.
    """
    if number % 4 == 0:
        return [(draw.two(of, rng), ("colour", "colour"))]
    if number % 4 == 1:
        return [(draw.one(of, pick(of.concepts, rng), rng), ("colour", "thing"))]
    return [(draw.one(of, pick(of.concepts, rng), rng), ("colour",)) for _ in range(2)]


def look_alikes(of: Material, count: int) -> dict[str, list[str]]:
    """For every thing, the `count` others whose drawings cover the most similar pixels."""
    boards = []
    for name in of.concepts:
        board = np.zeros((24, 24))
        for mark in of.marks("icon", name):
            ink = np.asarray(mask_of(mark, 24), dtype=float) / 255
            line, column = (24 - ink.shape[0]) // 2, (24 - ink.shape[1]) // 2
            board[line : line + ink.shape[0], column : column + ink.shape[1]] += ink
        boards.append((board / np.linalg.norm(board)).ravel())
    likeness = np.stack(boards) @ np.stack(boards).T
    np.fill_diagonal(likeness, -1)
    order = np.argsort(-likeness, axis=1, kind="stable")[:, :count]
    return {
        name: [of.concepts[int(index)] for index in indices]
        for name, indices in zip(of.concepts, order, strict=True)
    }


def mme(out: Path, of: Material, count: int, rng: np.random.Generator) -> None:
    """Five tasks of MME, about `count` questions in all: two a picture, the first true.

    Picture and text of a question are in one folder per task, as for these five in MME's release.
    """
    release = out / "MME_Benchmark_release_version"
    questions = []
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
            questions += [row(place, place, question + SHORT, task) for question in (true, false)]
    write_lines(out / "llava_mme.jsonl", questions)


def _true_and_false(task: str, of: Material, rng: np.random.Generator) -> tuple[Scene, str, str]:
    """A scene, a question whose answer is yes, and one whose answer is no."""
    if task == "OCR":
        scene = draw.written(of, "word", rng)
        word = scene.items[0].name
        wrong = pick([name for name in WORDS if name != word], rng)
        wording = 'Is the word in the picture "{}"?'
        return scene, wording.format(word), wording.format(wrong)
    if task == "count":
        count = int(rng.integers(1, 10))
        scene = several(of, count, rng)
        wrong_count = pick([number for number in range(1, 10) if number != count], rng)
        thing = scene.items[0].name
        return scene, _there_are(count, thing), _there_are(wrong_count, thing)
    if task == "position":
        scene = draw.two(of, rng)
        assert scene.relation is not None  # it has two things
        first, second = (item.name for item in scene.items)
        if rng.integers(2):
            where = {"left": "on the left side of", "above": "above"}[scene.relation]
        else:
            first, second = second, first
            where = {"left": "on the right side of", "above": "below"}[scene.relation]
        wording = "Is the {} {} the {}?"
        return scene, wording.format(first, where, second), wording.format(second, where, first)
    scene = draw.two(of, rng) if rng.integers(2) else draw.one(of, pick(of.concepts, rng), rng)
    item = pick(scene.items, rng)
    if task == "color":
        wrong = pick([tint for tint in COLOURS if tint != item.colour], rng)
        wording = "Is the color of the {} {}?"
        return scene, wording.format(item.name, item.colour), wording.format(item.name, wrong)
    wrong = absent({item.name for item in scene.items}, of, rng)
    wording = "Is there {} in this image?"
    return scene, wording.format(a(item.name)), wording.format(a(wrong))


def _there_are(count: int, thing: str) -> str:
    if count == 1:
        return f"Is there only one {thing} in the image?"
    return f"Are there {NUMBERS[count]} {plural(thing)} in the image?"
