"""`README.txt` in the folders of a subset: what it is, and how to train on it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from xmas.data.rows import Rows
from xmas.selection.protocol import name_of, saw_validation
from xmas.store.atomic import of_attempts
from xmas.store.integrity import META

if TYPE_CHECKING:
    from xmas.selection.subset import Subset

FILE = "README.txt"
_FILES = {
    "rows.json": "row numbers of the subset in the pool, from 0, ascending",
    "file_rows.json": "the same in your file, of which the pool leaves rows out",
    "manifest.json": "rows by source, hashes, versions, configuration",
    "ranking.parquet": "every row of the pool: rank, score, cluster, chosen or not",
    "meta.json": "configuration; size and sha256 of every file here",
}


def sentence(subset: "Subset", rows: Rows, chosen: Int[np.ndarray, " chosen"]) -> str:
    """What a subset is, in words."""
    ranking = subset.ranking
    count, of = len(chosen), len(rows)
    selector = f"{name_of(ranking.selector)}, seed {ranking.seed}"
    text_only = int((~rows.has_image[chosen]).sum())
    sources = len(np.unique(rows.index.source[chosen]))
    return (
        f"{count:,} of the {of:,} rows of pool {ranking.pool.name} ({100 * count / of:.3g} %), "
        f"chosen by {selector}, for a budget of {_budget(subset)}: {text_only:,} without a "
        f"picture, {sources:,} source{'s' * (sources != 1)}."
        + " It saw validation rows of benchmarks."
        * saw_validation(ranking.selector)
    )


def opening(folder: Path) -> str:
    """The sentence of a subset's README."""
    if not (folder / FILE).exists():
        return "A subset of a former version."
    return (folder / FILE).read_text(encoding="utf-8").partition("\n\n")[0]


def all_rows(subset: "Subset", rows: Rows, order: Int[np.ndarray, " usable"]) -> str:
    """What the ranking of a pool is, in words.

    Args:
        order: the rows that the subset's rules allow, best first.
    """
    ranking = subset.ranking
    return (
        f"{len(order):,} of the {len(rows):,} rows of pool {ranking.pool.name}, best first by "
        f"{name_of(ranking.selector)}, seed {ranking.seed}, text-only rows: {subset.text_only}."
    )


def readme(
    about: str, folder: Path, training: Mapping[str, str], remarks: Sequence[str] = ()
) -> str:
    """The text of a `README.txt`.

    Args:
        about: the sentence that it opens with.
        folder: of the files that it lists, complete but for the README and `meta.json`.
        training: how each format is trained on, by what is to be known before: "" for these files.
        remarks: further sentences.
    """
    leftovers = {path.name for path in of_attempts(folder)} | {FILE}
    names = sorted({path.name for path in folder.iterdir()} - leftovers | {META})
    listed = [f"{name}: {_FILES[name]}" if name in _FILES else name for name in names]
    parts = [about, *remarks, "Files\n" + "\n".join(f"  {line}" for line in listed)]
    for condition, commands in training.items():
        heading = "Train on it" if not condition else f"Train on it, {condition}"
        parts.append(heading + "\n" + "".join(f"  {line}\n" for line in commands.splitlines()))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _budget(subset: "Subset") -> str:
    if subset.tokens is not None:
        return f"{subset.tokens:,} tokens"
    if subset.rows is not None:
        return f"{subset.rows:,} rows"
    return f"{100 * (subset.fraction or 0):.4g} %"
