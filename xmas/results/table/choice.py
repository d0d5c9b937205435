"""Which scores of a store a table is made of. What is not chosen takes no part in any number."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from xmas.results.score_records import Run, TableError, asked_by, runs
from xmas.store import Store

Said = Callable[[Run], Collection[str]]


def choose(
    store: Store,
    *,
    pool: str | None,
    selector: str | Sequence[str] | None,
    experiment: str | None,
    protocol: str | None,
) -> list[Run]:
    """The scores of trained targets that fit all that is given; references fit any selector.

    Raises TableError: none is left; the message says what there is to choose from.
    """
    kept = [run for run in runs(store) if run.control == "none"]
    if not kept:
        raise TableError(
            f"{store.root}: no scores of trained targets; make some with "
            "`xmas -m goal=scores selector=random,xmas`, or set store.root to where they are"
        )
    if experiment is not None:
        asked = asked_by(store, experiment)
        kept = [run for run in kept if Path(run.folder).name in asked]
        if not kept:
            raise TableError(f"{store.root}: experiment {experiment} has no finished scores")
    if pool is not None:
        kept = _only(kept, lambda run: [run.pool], [pool], f"{store.root}: no scores on pool")
    if protocol is not None:
        what = f"{store.root}: no answers made as"
        kept = _only(kept, lambda run: [run.protocol, *run.protocol.split(", ")], [protocol], what)
    if selector is None:
        return kept
    names = [selector] if isinstance(selector, str) else list(selector)
    subsets = [run for run in kept if run.role != "reference"]
    for name in names:  # one that is misspelt is not left out in silence
        _only(subsets, lambda run: [run.selector], [name], f"{store.root}: no scores of selector")
    return [run for run in kept if run.role == "reference" or run.selector in names]


def _only(found: list[Run], said: Said, wanted: list[str], what: str) -> list[Run]:
    kept = [run for run in found if set(wanted) & set(said(run))]
    if not kept:
        there = sorted({next(iter(said(run))) for run in found})
        raise TableError(f"{what} {', '.join(wanted)}, only {'; '.join(there)}")
    return kept
