"""Some rows of an opened pool as a pool, numbered anew; nothing is copied."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from xmas.data.rows import Index, Rows, Shown
from xmas.data.turns import Turn


class ChosenRows(Rows):
    """The `numbers` of another pool's rows, in this order, with its pictures that they show."""

    def __init__(self, rows: Rows, numbers: Int[np.ndarray, " chosen"]) -> None:
        self.rows = rows
        self.numbers = numbers
        counts = rows.shown.counts[numbers]
        ends = np.cumsum(counts)
        images = np.repeat(rows.shown.offsets[numbers] - ends + counts, counts)
        images += np.arange(len(images))
        self._pictures, pictures = np.unique(rows.shown.pictures[images], return_inverse=True)
        index = Index(
            Shown(np.concatenate([[0], np.cumsum(counts)]), pictures.reshape(-1)),
            rows.index.names.take(self._pictures),
            rows.index.stored[self._pictures],
            rows.index.source[numbers],
            rows.index.source_names,
        )
        super().__init__(rows.annotations, rows.images, index)
        self.max_pixels, self.outside = rows.max_pixels, rows.outside

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.rows[int(self.numbers[row])]

    def turns(self, row: int) -> list[Turn]:
        return self.rows.turns(int(self.numbers[row]))

    def row_id(self, row: int) -> Any:
        return self.rows.row_id(int(self.numbers[row]))

    def column(self, name: str) -> np.ndarray:
        return self.rows.column(name)[self.numbers]

    def picture(self, number: int) -> Path | bytes:
        return self.rows.picture(int(self._pictures[number]))

    def file_row(self, row: int) -> int:
        return self.rows.file_row(int(self.numbers[row]))

    def identity(self) -> str:
        return self.rows.identity()

    def size(self) -> int:
        return self.rows.size()


def in_whole(
    rows: Rows, numbers: Int[np.ndarray, " chosen"]
) -> tuple[Rows, Int[np.ndarray, " chosen"]]:
    """The rows that a pool's are chosen from, at any depth, and the numbers of some rows there."""
    while isinstance(rows, ChosenRows):
        rows, numbers = rows.rows, rows.numbers[numbers]
    return rows, numbers
