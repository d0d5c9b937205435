"""The rows of a pool with planted truths, made of another pool's when they are read."""

from pathlib import Path
from typing import Any

import numpy as np

from xmas.data.planted.edits import ONE_TOKEN as TOKEN
from xmas.data.planted.edits import answered, answers_of, padded, paraphrased
from xmas.data.planted.planting import EMPTY, ONE_TOKEN, Plan
from xmas.data.rows import Index, Rows
from xmas.data.turns import Turn

IMAGES = "images"  # folder of the pictures that were altered


def picture_file(row: int) -> str:
    """The name of the altered picture of a row."""
    return f"xmas_planted/{row}.jpg"


class PlantedRows(Rows):
    """Rows as a plan says; pictures that were altered are read from the stage's folder.

    `rows[n]` is the record of the row that row n comes from, as it was: `turns` has what changed.
    """

    def __init__(self, rows: Rows, plan: Plan, sentences: int, folder: Path) -> None:
        self.rows, self.plan, self.folder = rows, plan, folder
        self._sentences = sentences
        pictures, names = rows.shown, rows.picture_names
        self._number_of: dict[str, int] = {}
        of_rows = []
        for row in range(len(rows)):
            numbers = pictures[int(plan.pictures[row])].tolist()
            of_row = [names[number] for number in numbers]
            if plan.variants[row] >= 0 and numbers:
                of_row = [picture_file(row)]
            else:
                self._number_of.update(zip(of_row, numbers, strict=True))
            of_rows.append((of_row, str(rows.sources[plan.rows[row]])))
        stored = rows.index.stored
        super().__init__(
            rows.annotations,
            rows.images,
            Index.of(
                of_rows,
                lambda name: name not in self._number_of or bool(stored[self._number_of[name]]),
            ),
        )
        self.max_pixels, self.outside = rows.max_pixels, rows.outside

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.rows[int(self.plan.rows[row])]

    def turns(self, row: int) -> list[Turn]:
        plan = self.plan
        turns = self.rows.turns(int(plan.rows[row]))
        if plan.answers[row] != plan.rows[row]:
            turns = answered(turns, answers_of(self.rows.turns(int(plan.answers[row]))))
        if plan.kinds[row] in (EMPTY, ONE_TOKEN):
            answer = TOKEN if plan.kinds[row] == ONE_TOKEN else ""
            turns = answered(turns, [answer] * len(answers_of(turns)))
        if plan.variants[row] >= 0:
            turns = paraphrased(turns, int(plan.variants[row]))
        return padded(turns, self._sentences) if plan.padded[row] else list(turns)

    def row_id(self, row: int) -> Any:
        return self.rows.row_id(int(self.plan.rows[row]))

    def column(self, name: str) -> np.ndarray:
        return self.rows.column(name)[self.plan.rows]

    def picture(self, number: int) -> Path | bytes:
        name = self.picture_names[number]
        if name in self._number_of:
            return self.rows.picture(self._number_of[name])
        return (self.folder / IMAGES / Path(name).name).read_bytes()

    def file_row(self, row: int) -> int:
        return self.rows.file_row(int(self.plan.rows[row]))

    def identity(self) -> str:
        return self.rows.identity()

    def size(self) -> int:
        return self.rows.size()
