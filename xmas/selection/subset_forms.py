"""A subset in trainers' formats, each a separate result: asking for another one ranks nothing."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Int

from xmas.data.rows import Rows
from xmas.data.writers import DEFAULT, Explained, form_of, is_ranked, llava, write_form, writer_of
from xmas.selection.budget import queue
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.selection.subset_readme import FILE as README
from xmas.selection.subset_readme import all_rows, readme, sentence
from xmas.store import Stage, Store, nearest_stages

USUAL = ("messages", "swift", "trl")  # formats whose commands every subset's README has


@dataclasses.dataclass(frozen=True)
class SubsetFiles(Stage):
    """A subset in one trainer's format: the files that a module of `xmas.data.writers` writes, with
    `README.txt`.

    >>> from xmas import Pool, Ranking, Store, Subset, SubsetFiles
    >>> from xmas.selection.methods.random import Random
    >>> subset = Subset(Ranking(Pool("mix.json", "images"), Random()), fraction=0.7)
    >>> folder = Store("store").get(SubsetFiles.of(subset, "messages"))
    >>> sorted(path.name for path in folder.iterdir())
    ['README.txt', 'dataset_info.json', 'messages.json', 'meta.json']
    """

    kind: ClassVar[str] = "subset_files"

    subset: Subset
    format: str

    @classmethod
    def of(cls, subset: Subset, name: str) -> "SubsetFiles":
        """The files of a subset in the format called `name`; those of one that has the whole
        ranking are the same for every budget.
        """
        if is_ranked(name):
            subset = dataclasses.replace(subset, fraction=1.0, rows=None, tokens=None)
        return cls(subset, name)

    def inputs(self) -> list[Stage]:
        ranking = self.subset.ranking
        made_from = ranking if is_ranked(self.format) else self.subset
        return [made_from, *nearest_stages(ranking.pool)]

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: there is no such format, or a row cannot be said in it."""
        rows = self.subset.ranking.pool.open(store)
        chosen = self._rows(rows, store)
        about = sentence(self.subset, rows, chosen)
        if is_ranked(self.format):
            about = all_rows(self.subset, rows, chosen)
        place = store.path(self).absolute()
        remarks = write_form(self.format, rows, chosen, out, place)
        writer = writer_of(self.format)
        training = {"": writer.training(rows, place)} if isinstance(writer, Explained) else {}
        (out / README).write_text(readme(about, out, training, remarks), encoding="utf-8")

    def _rows(self, rows: Rows, store: Store) -> Int[np.ndarray, " written"]:
        """The rows that are written, in order."""
        if not is_ranked(self.format):
            return self.subset.chosen(store)
        order = Ranking.read(store.get(self.subset.ranking)).order
        return queue(order, **self.subset.rules(rows)).rows


def folders_of_forms(subset: Subset, store: Store) -> Iterator[Path]:
    """The folders of the formats in `write` that are not in the subset's own; made if absent."""
    folder = store.get(subset)
    has_llava = (folder / llava.FILE).exists()
    for name in subset.write or [_own_form(subset, store)]:
        if name != DEFAULT or not has_llava:
            yield store.get(SubsetFiles.of(subset, name))


def _own_form(subset: Subset, store: Store) -> str:
    """The format of the pool's own files."""
    manifest = json.loads((store.get(subset) / "manifest.json").read_text())
    # Subsets that were made before formats were noted have none in their manifest.
    return manifest.get("form") or form_of(subset.ranking.pool.open(store))


def how_to_train(subset: Subset, rows: Rows, store: Store, *, has_llava: bool) -> dict[str, str]:
    """The commands for a subset's README, by what is to be done before.

    Args:
        has_llava: whether LLaVA's format is in the subset's own folder.
    """
    commands = {"": llava.training(rows, store.path(subset).absolute())} if has_llava else {}
    for name in dict.fromkeys([form_of(rows), *USUAL]):
        writer = writer_of(name)
        if isinstance(writer, Explained) and not (has_llava and name == DEFAULT):
            place = store.path(SubsetFiles.of(subset, name)).absolute()
            commands[f"once 'subset.write=[{name}]' in the xmas command has written it"] = (
                writer.training(rows, place)
            )
    return commands
