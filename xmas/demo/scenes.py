"""The scenes that each source of the demo pool draws, and the questions that it asks about them."""

import numpy as np

from xmas.demo import draw
from xmas.demo import instructions as ask
from xmas.demo.draw import Scene, pick, shuffled
from xmas.demo.grammar import NO_ARTICLE
from xmas.demo.instructions import Turn
from xmas.demo.material import COLOURS, Material

LONGER = 0.2  # of the rows have another turn, so that most, but not all fit into 64 tokens
CLAIMED = 0.3  # of the rows on colour name a colour, and ask whether it is right


def _favourite(of: Material, rng: np.random.Generator) -> str:
    """A thing; the first ones far more often than the last."""
    return of.concepts[int(len(of.concepts) * rng.random() ** 1.6)]


def _countable(of: Material, rng: np.random.Generator) -> str:
    while (thing := _favourite(of, rng)) in NO_ARTICLE:
        pass
    return thing


def scene_of(source: str, of: Material, rng: np.random.Generator) -> Scene:
    """A new scene of that source, with the first of `of.concepts` more often than the last."""
    if source in ("words", "digits"):
        return draw.written(of, source.removesuffix("s"), rng)
    if source == "naming":
        return draw.one(of, _favourite(of, rng), rng)
    if source == "colour":
        few = COLOURS[: 4 if rng.random() < 0.5 else None]  # half of them are four colours
        return draw.one(of, _favourite(of, rng), rng, colour=pick(few, rng))
    if source == "counting":
        return draw.several(of, _countable(of, rng), int(rng.integers(1, 10)), rng)
    if source == "spatial":
        return draw.two(of, rng)
    return any_scene(of, rng, icons=source in ("presence", "choice"))


def any_scene(of: Material, rng: np.random.Generator, *, icons: bool = False) -> Scene:
    """Mostly single things, some pairs, counts, digits and words; no digits or words if `icons`."""
    share = rng.random() * (0.85 if icons else 1)
    if share < 0.65:
        return draw.one(of, pick(of.concepts, rng), rng)
    if share < 0.77:
        return draw.two(of, rng)
    if share < 0.85:
        return draw.several(of, _countable(of, rng), int(rng.integers(2, 10)), rng)
    return draw.written(of, "digit" if share < 0.94 else "word", rng)


def turns_of(source: str, scene: Scene, of: Material, rng: np.random.Generator) -> list[Turn]:
    """The questions of a row of that source about its scene: one to three turns."""
    first = scene.items[0]
    if source == "captioning":
        return [ask.describing(scene, rng)]
    if source in ("words", "digits"):
        of_colour = shuffled([ask.colour(first, rng), claim(scene, rng)], rng)
        turns = [ask.reading(scene, rng), *of_colour]
        return turns[: int(rng.integers(1, 4))]
    if source == "spatial":
        turns = ask.spatial(scene, rng) + [ask.colour(item, rng) for item in scene.items]
        return turns[: 2 + int(rng.random() < LONGER)]
    if source == "choice":
        return [ask.choice(fact(scene, rng), of, rng)]
    if source == "presence":
        answers = [bool(answer) for answer in rng.permutation([0, 0, 0, 1, 1, 1])]
        return [ask.presence(scene, of, rng, there=there) for there in answers]
    main = {
        "naming": lambda: ask.naming(scene, rng),
        "colour": lambda: ask.colour(first, rng),
        "counting": lambda: ask.counting(scene, rng),
    }[source]()
    there = bool(rng.integers(2))
    yes_or_no = [claim(scene, rng), ask.presence(scene, of, rng, there=there)]
    if source == "colour" and rng.random() < CLAIMED:
        main = yes_or_no[0]
    more = [ask.naming(scene, rng), ask.colour(first, rng), pick(yes_or_no, rng)]
    more = [turn for turn in shuffled(more, rng) if turn.kind not in (main.kind, source)]
    return [main, *more[: int(rng.integers(0, 2)) + int(rng.random() < LONGER)]]


def claim(scene: Scene, rng: np.random.Generator) -> Turn:
    """Whether the first item has a named colour; true half of the time."""
    return ask.claim(scene.items[0], rng, true=bool(rng.integers(2)))


def distinct(scene: Scene, rng: np.random.Generator) -> Turn:
    """A question for what distinguishes a scene from others, other than its first colour."""
    if scene.items[0].mark.kind != "icon":
        return ask.reading(scene, rng)
    if scene.relation is not None:
        return ask.colour(scene.items[1], rng)
    return ask.counting(scene, rng) if len(scene.items) > 1 else ask.naming(scene, rng)


def fact(scene: Scene, rng: np.random.Generator) -> Turn:
    """A question with a single short answer of a known kind."""
    first = scene.items[0]
    if first.mark.kind != "icon":
        return ask.reading(scene, rng)
    if scene.relation is not None:
        return ask.colour(first, rng)
    if len(scene.items) > 1:
        return ask.counting(scene, rng)
    return ask.colour(first, rng) if rng.random() < 0.85 else ask.naming(scene, rng)
