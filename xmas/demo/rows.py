"""The rows of the demo pool, source by source, with their repetitions.

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
from xmas.demo.instructions import Turn
from xmas.demo.material import Material
from xmas.demo.scenes import scene_of, turns_of

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
                row.scene = scene_of(source, favourites, rng)
            row.turns = turns_of(source, row.scene, of, rng)
        rows.append(row)
    return rows
