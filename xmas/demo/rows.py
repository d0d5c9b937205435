"""The rows of the demo pool: the scenes of each source, and the questions about them.

Some things are drawn far more often than others, many rows on naming and colour are near-copies of
an earlier row, and a few ask again about an earlier row's image. All of it is in a row's `truth`.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xmas.data.readers.llava import IMAGE_PLACEHOLDER
from xmas.demo import draw
from xmas.demo import instructions as ask
from xmas.demo.draw import Scene, pick, shuffled
from xmas.demo.grammar import NO_ARTICLE
from xmas.demo.instructions import Turn
from xmas.demo.material import COLOURS, Material

SHARES = {  # of the rows; "text" has no images
    "naming": 0.24,
    "captioning": 0.11,
    "colour": 0.13,
    "counting": 0.09,
    "spatial": 0.09,
    "words": 0.04,
    "digits": 0.06,
    "presence": 0.08,
    "choice": 0.10,
    "text": 0.06,
}
NEAR_COPIES = 0.35  # of the rows on naming and colour
LONGER = 0.2  # of the rows have another turn, so that most, but not all fit into 64 tokens
LESSONS_AGAIN, DIRECT = 0.3, 0.6  # of the reviews
CLAIMED = 0.3  # of the rows on colour name a colour, and ask whether it is right
ASKED_AGAIN = 0.05  # of the rows with an image show the image of an earlier row


def sizes(rows: int) -> dict[str, int]:
    """The number of rows of every source; the remainder of rounding goes to the largest."""
    counts = {source: int(share * rows) for source, share in SHARES.items()}
    counts["naming"] += rows - sum(counts.values())
    return counts


@dataclass(eq=False)
class Row:
    """A row before the sources are mixed."""

    source: str
    number: int
    turns: list[Turn]
    scene: Scene | None = None
    image_first: bool = True
    copy_of: "Row | None" = None  # its scene is nearly that of the other row
    asked_again_of: "Row | None" = None  # its image is that of the other row

    @property
    def stem(self) -> str:
        return self.asked_again_of.stem if self.asked_again_of else f"{self.number:06d}"

    @property
    def image(self) -> str:
        return f"{self.source}/{self.stem}.png"

    def record(self) -> dict[str, Any]:
        image = None if self.scene is None else self.image
        return record(self.stem, self.turns, image, image_first=self.image_first)

    def truth(self, position: dict[int, int]) -> dict[str, Any]:
        others = {"copy_of": self.copy_of, "asked_again_of": self.asked_again_of}
        return {
            "source": self.source,
            "questions": [turn.kind for turn in self.turns],
            **{what: None if row is None else position[id(row)] for what, row in others.items()},
            "scene": None if self.scene is None else self.scene.describe(),
        }


def record(
    row_id: str, turns: list[Turn], image: str | None, *, image_first: bool = True
) -> dict[str, Any]:
    """A row in LLaVA's format: image and suffix are in the first question only."""
    conversation = []
    for number, turn in enumerate(turns):
        question = turn.question
        if number == 0:
            question += turn.suffix
            if image is not None:
                parts = [part for part in (IMAGE_PLACEHOLDER, question) if part]
                question = "\n".join(parts if image_first else parts[::-1])
        conversation += [
            {"from": "human", "value": question},
            {"from": "gpt", "value": turn.answer},
        ]
    return {
        "id": row_id,
        **({} if image is None else {"image": image}),
        "conversations": conversation,
    }


def rows_of(source: str, count: int, of: Material, rng: np.random.Generator) -> list[Row]:
    """The rows of one source."""
    rows: list[Row] = []
    favourites = replace(of, concepts=tuple(shuffled(of.concepts, rng)))
    for number in range(count):
        row = Row(source, number, [], image_first=bool(rng.random() < 0.7))
        if source == "text":
            row.turns = [ask.text_only(of, rng) for _ in range(int(rng.integers(1, 4)))]
        else:
            fate, earlier = rng.random(), pick(rows, rng) if rows else None
            if earlier is not None and earlier.scene is not None and fate < ASKED_AGAIN:
                row.asked_again_of = earlier.asked_again_of or earlier
                row.scene = earlier.scene
            elif (
                earlier is not None
                and earlier.scene is not None
                and source in ("naming", "colour")
                and fate < ASKED_AGAIN + NEAR_COPIES
                and len(earlier.scene.items) == 1
            ):
                row.copy_of, row.scene = earlier, draw.nearly(earlier.scene, of, rng)
            else:
                row.scene = _scene(source, favourites, rng)
            row.turns = _turns(source, row.scene, of, rng)
        rows.append(row)
    return rows


def _favourite(of: Material, rng: np.random.Generator) -> str:
    """A thing; the first ones far more often than the last."""
    return of.concepts[int(len(of.concepts) * rng.random() ** 1.6)]


def _scene(source: str, of: Material, rng: np.random.Generator) -> Scene:
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
    return any_scene(of, rng, icons=source == "presence")


def _countable(of: Material, rng: np.random.Generator) -> str:
    while (thing := _favourite(of, rng)) in NO_ARTICLE:
        pass
    return thing


def comparing(of: Material, rng: np.random.Generator) -> tuple[Scene, list[Turn]]:
    """A scene, and yes-or-no questions or a choice about it."""
    source = pick(("presence", "choice"), rng)
    scene = _scene(source, of, rng)
    return scene, _turns(source, scene, of, rng)


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
    fact = _distinct(scene, rng)
    if share < LESSONS_AGAIN + DIRECT:
        return shuffled([fact, ask.colour(first, rng), _claim(scene, rng)], rng)
    question = ask.colour(first, rng) if rng.random() < 0.5 else fact
    return [ask.choice(question, of, rng) for _ in range(3)]


def recall(scene: Scene, rng: np.random.Generator) -> Turn:
    """The name of a single thing; a description of any other scene."""
    single = len(scene.items) == 1 and scene.items[0].mark.kind == "icon"
    return ask.naming(scene, rng) if single else ask.describing(scene, rng)


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


def _turns(source: str, scene: Scene, of: Material, rng: np.random.Generator) -> list[Turn]:
    """The questions of a row of that source about its scene: one to three turns."""
    first = scene.items[0]
    if source == "captioning":
        return [ask.describing(scene, rng)]
    if source in ("words", "digits"):
        of_colour = shuffled([ask.colour(first, rng), _claim(scene, rng)], rng)
        turns = [ask.reading(scene, rng), *of_colour]
        return turns[: int(rng.integers(1, 4))]
    if source == "spatial":
        turns = ask.spatial(scene, rng) + [ask.colour(item, rng) for item in scene.items]
        return turns[: 2 + int(rng.random() < LONGER)]
    if source == "choice":
        return [ask.choice(_fact(scene, rng), of, rng)]
    if source == "presence":
        answers = [bool(answer) for answer in rng.permutation([0, 0, 0, 1, 1, 1])]
        return [ask.presence(scene, of, rng, there=there) for there in answers]
    main = {
        "naming": lambda: ask.naming(scene, rng),
        "colour": lambda: ask.colour(first, rng),
        "counting": lambda: ask.counting(scene, rng),
    }[source]()
    there = bool(rng.integers(2))
    yes_or_no = [_claim(scene, rng), ask.presence(scene, of, rng, there=there)]
    if source == "colour" and rng.random() < CLAIMED:
        main = yes_or_no[0]
    more = [ask.naming(scene, rng), ask.colour(first, rng), pick(yes_or_no, rng)]
    more = [turn for turn in shuffled(more, rng) if turn.kind not in (main.kind, source)]
    return [main, *more[: int(rng.integers(0, 2)) + int(rng.random() < LONGER)]]


def _claim(scene: Scene, rng: np.random.Generator) -> Turn:
    return ask.claim(scene.items[0], rng, true=bool(rng.integers(2)))


def _distinct(scene: Scene, rng: np.random.Generator) -> Turn:
    """A question for what distinguishes a scene from others, other than its first colour."""
    if scene.items[0].mark.kind != "icon":
        return ask.reading(scene, rng)
    if scene.relation is not None:
        return ask.colour(scene.items[1], rng)
    return ask.counting(scene, rng) if len(scene.items) > 1 else ask.naming(scene, rng)


def _fact(scene: Scene, rng: np.random.Generator) -> Turn:
    """A question with a single short answer of a known kind."""
    first = scene.items[0]
    if first.mark.kind != "icon":
        return ask.reading(scene, rng)
    if scene.relation is not None:
        return ask.colour(first, rng)
    if len(scene.items) > 1:
        return ask.counting(scene, rng)
    return ask.colour(first, rng) if rng.random() < 0.7 else ask.naming(scene, rng)
