"""Refuse what cannot be computed before anything is computed for it.

A fit takes hours; that a pool has fewer rows than the clusters that follow is known when it is
opened.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from xmas.store.stage import Stage
from xmas.store.store import Store


@runtime_checkable
class Feasible(Protocol):
    """A stage that can be seen to be impossible."""

    def check(self, store: Store) -> None:
        """Raise ValueError, with the setting to change, if this cannot be computed.

        It reads no more than the index of a pool whose files are there, and computes nothing.
        """
        ...


def unfinished(goal: Stage, store: Store) -> Iterator[Stage]:
    """The stages that will be computed for `goal`, those first that need others."""
    visited: set[str] = set()
    pending = [goal]
    while pending:
        stage = pending.pop()
        path = store.path(stage)
        if str(path) in visited or path.exists():
            continue
        visited.add(str(path))
        yield stage
        pending += list(stage.inputs())[::-1]


def check_all(goal: Stage, store: Store) -> None:
    """Check every stage that will be computed for `goal`. Raises ValueError: the first fault."""
    for stage in unfinished(goal, store):
        if isinstance(stage, Feasible):
            stage.check(store)
