"""The turns that the demo's start point is pretrained on: lessons, reviews and recalls."""

from dataclasses import replace

import numpy as np

from xmas.demo import instructions as ask
from xmas.demo.draw import Scene, pick, shuffled
from xmas.demo.instructions import Turn
from xmas.demo.material import Material
from xmas.demo.scenes import claim, distinct, scene_of, turns_of

LESSONS_AGAIN, DIRECT = 0.3, 0.6  # of the reviews


def comparing(of: Material, rng: np.random.Generator) -> tuple[Scene, list[Turn]]:
    """A scene, and yes-or-no questions or a choice about it."""
    source = pick(("presence", "choice"), rng)
    scene = scene_of(source, of, rng)
    return scene, turns_of(source, scene, of, rng)


def lesson(
    scene: Scene, of: Material, rng: np.random.Generator, *, choices: float = 0.5, two: float = 0.5
) -> list[Turn]:
    """Yes-or-no questions, or choices of a single thing's colour, about the colours of a scene.

    A share `choices` of those about single things are choices. A share `two` of these has two
    options, the others three or four: of two options it is enough to check the last one, so with
    too many of these a model never learns to compare more.
    """
    first = scene.items[0]
    if len(scene.items) > 1 or rng.random() >= choices:
        answers = [bool(answer) for answer in rng.permutation([0, 0, 0, 1, 1, 1])]
        return [ask.tinted(scene, rng, there=there) for there in answers]
    counts = np.where(rng.random(5) < two, 2, rng.integers(3, 5, 5))
    return [ask.choice(ask.colour(first, rng), of, rng, int(count)) for count in counts]


def in_words(scene: Scene, turns: list[Turn], rng: np.random.Generator) -> list[Turn]:
    """The same turns for a row without an image: the scene's caption takes its place."""
    first = replace(turns[0], question=f"{ask.caption(scene, rng)}\n{turns[0].question}")
    return [first, *turns[1:]]


def review(scene: Scene, of: Material, rng: np.random.Generator) -> list[Turn]:
    """A lesson again, or the other questions about a scene: directly, or as choices.

    A model that has learned to compare with the image is not harmed by other questions.
    """
    first, share = scene.items[0], rng.random()
    if first.mark.kind == "icon" and share < LESSONS_AGAIN:
        return lesson(scene, of, rng, two=1 / 3)
    fact = distinct(scene, rng)
    if share < LESSONS_AGAIN + DIRECT:
        return shuffled([fact, ask.colour(first, rng), claim(scene, rng)], rng)
    question = ask.colour(first, rng) if rng.random() < 0.5 else fact
    return [ask.choice(question, of, rng) for _ in range(3)]


def recall(scene: Scene, rng: np.random.Generator) -> Turn:
    """The name of a single thing; a description of any other scene."""
    single = len(scene.items) == 1 and scene.items[0].mark.kind == "icon"
    return ask.naming(scene, rng) if single else ask.describing(scene, rng)
