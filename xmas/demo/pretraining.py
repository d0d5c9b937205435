"""The rows that the demo's start point is pretrained on, in steps from finding to choosing.

LLaVA starts from Vicuna, which answers yes or no and chooses a letter. A randomly initialised
language model learns this in steps, each from what the last one taught: to find a fact, to compare
it with a claim, to choose the letter of what it found. All at once it does not learn this. Part of
the rows describe a thing in words instead of a drawing: comparing is learned sooner there, and
carries over to images, which share a space with words from the start
(`xmas.training.starts.initial_weights`).
"""

from dataclasses import replace

import numpy as np

from xmas.demo import draw
from xmas.demo import instructions as ask
from xmas.demo.draw import Scene, pick, shuffled
from xmas.demo.instructions import Turn
from xmas.demo.material import Material
from xmas.demo.scenes import distinct

IN_WORDS = {"facts": 0.3, "claims": 0.85, "choices": 0.95, "reviews": 0.25}  # share of the rows
SHARES = {  # of the turns of each kind of row
    "facts": {"caption": 0.2, "pair": 0.8},
    "claims": {"colour": 0.2, "there": 0.8},
    "choices": {"colour": 0.1, "there": 0.15, "choice": 0.75},
    "reviews": {"caption": 0.08, "fact": 0.34, "there": 0.1, "claim": 0.12, "choice": 0.36},
}


def single(scene: Scene) -> bool:
    """Whether a scene is one thing."""
    return len(scene.items) == 1 and scene.items[0].mark.kind == "icon"


def in_words(scene: Scene, turns: list[Turn], rng: np.random.Generator) -> list[Turn]:
    """The same turns for a row without an image: the scene's caption takes its place."""
    first = replace(turns[0], question=f"{ask.caption(scene, rng)}\n{turns[0].question}")
    return [first, *turns[1:]]


def row(
    rows: str, drawings: list[tuple[Scene, str]], of: Material, rng: np.random.Generator
) -> tuple[list[Turn], str | None]:
    """The turns of a row with the image that they are about; in words it has none.

    Until the reviews, drawings are asked for facts alone: a step that compares has its own kinds in
    words.

    Args:
        rows: `facts`, `claims`, `choices` or `reviews`.
        drawings: scenes with the names of their images.
    """
    if rng.random() < IN_WORDS[rows]:
        scene = draw.one(of, pick(of.concepts, rng), rng)
        return in_words(scene, turns(rows, scene, of, rng), rng), None
    scene, image = pick(drawings, rng)
    return turns("reviews" if rows == "reviews" else "facts", scene, of, rng), image


def turns(rows: str, scene: Scene, of: Material, rng: np.random.Generator) -> list[Turn]:
    """The turns of a row: one, or a pair of facts.

    With several claims or choices a row, an answer can be copied from an earlier one. Claims that
    name a thing, and choices, are about single things; for other scenes a colour is asked for.

    Args:
        rows: `facts`, `claims`, `choices` or `reviews`.
    """
    shares = SHARES[rows]
    kind = list(shares)[int(rng.choice(len(shares), p=list(shares.values())))]
    first, true = scene.items[0], bool(rng.integers(2))
    if kind in ("claim", "choice") and not single(scene):
        kind = "there"
    if kind == "caption":
        return [ask.describing(scene, rng)]
    if kind == "fact":
        return [distinct(scene, rng)]
    if kind == "pair":
        return shuffled([distinct(scene, rng), ask.colour(first, rng)], rng)
    if kind == "colour":
        return [ask.colour(first, rng)]
    if kind == "there":
        return [ask.tinted(scene, rng, there=true)]
    if kind == "claim":
        return [ask.claim(first, rng, true=true)]
    return [ask.choice(ask.colour(first, rng), of, rng)]
