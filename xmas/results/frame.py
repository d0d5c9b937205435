"""The scores of a store as a DataFrame; `Table.frame` has their means and intervals."""

import dataclasses
from typing import Any

from xmas.results.score_records import Run, runs
from xmas.store import Store

_NESTED = ("settings", "measured", "config")  # no columns: the table compares them


def scores(store: Store) -> Any:
    """A pandas DataFrame, one line a score: selector, budget, seed, benchmark, score and so on.

    `score` is NaN where a score is invalid; `invalid` says why. The mean score of every selector:

        scores(Store("store")).groupby(["selector", "budget", "benchmark"]).score.mean()

    Raises:
        TableError: a file of the store lacks a key.
    """
    import pandas

    names = [field.name for field in dataclasses.fields(Run) if field.name not in _NESTED]
    lines = [[getattr(run, name) for name in names] for run in runs(store)]
    return pandas.DataFrame(lines, columns=pandas.Index(names)).astype({"score": float})
