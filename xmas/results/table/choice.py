"""Which scores of a store a table is made of. What is not chosen takes no part in any number."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from xmas.results.leaderboard import BASE
from xmas.results.score_records import Run, TableError, asked_by, runs
from xmas.store import Store

Names = Callable[[Run], Collection[str]]


def choose(
    store: Store,
    *,
    pool: str | None,
    selector: str | Sequence[str] | None,
    experiment: str | None,
    protocol: str | None,
    benchmarks: str | Sequence[str] | None = None,
) -> list[Run]:
    """The scores of trained targets that match every argument that is not None.

    References match any selector.

    Raises:
        TableError: none matches; the message says what there is to choose from.
    """
    matching_runs = [run for run in runs(store) if run.control == "none"]
    if not matching_runs:
        raise TableError(
            f"{store.root}: no scores of trained targets; make some with "
            "`xmas -m goal=scores selector=random,xmas`, or set store.root to where they are"
        )
    if experiment is not None:
        keys = asked_by(store, experiment)
        matching_runs = [run for run in matching_runs if Path(run.folder).name in keys]
        if not matching_runs:
            raise TableError(f"{store.root}: experiment {experiment} has no finished scores")
    if pool is not None:
        matching_runs = _matching(
            matching_runs, lambda run: [run.pool], [pool], f"{store.root}: no scores on pool"
        )
    if protocol is not None:
        what = f"{store.root}: no answers made as"
        matching_runs = _matching(
            matching_runs, lambda run: [run.protocol, *run.protocol.split(", ")], [protocol], what
        )
    if benchmarks is not None:
        shown = [benchmarks] if isinstance(benchmarks, str) else list(benchmarks)
        for name in shown:  # a misspelt one is an error, even where others match
            _matching(
                matching_runs,
                lambda run: [run.benchmark],
                [name],
                f"{store.root}: no scores on benchmark",
            )
        matching_runs = [run for run in matching_runs if run.benchmark in shown]
    if selector is None:
        return matching_runs
    names = [selector] if isinstance(selector, str) else list(selector)
    references = ("reference", BASE)
    subsets = [run for run in matching_runs if run.role not in references]
    what = f"{store.root}: no scores of selector"
    for name in names:  # a misspelt one is an error, even where others match
        _matching(subsets, lambda run: [run.selector], [name], what)
    return [run for run in matching_runs if run.role in references or run.selector in names]


def _matching(scores: list[Run], names_of: Names, names: list[str], what: str) -> list[Run]:
    """Those that have one of `names`. Raises TableError: none has; it begins with `what`."""
    matching = [run for run in scores if set(names) & set(names_of(run))]
    if not matching:
        choices = sorted({next(iter(names_of(run))) for run in scores})
        raise TableError(f"{what} {', '.join(names)}, only {'; '.join(choices)}")
    return matching
