"""The last words of a command: a sentence on what was made, in the log; the path is printed.

So a script that reads the output gets paths alone.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from xmas.results.listing import columns, time_text
from xmas.store import Stage, Store
from xmas.store.label import label


@runtime_checkable
class HasSentence(Protocol):
    """A goal that says itself what it is."""

    def sentence(self, store: Store) -> str:
        """What was made, in words; it is there."""
        ...


def sentence(goal: object, store: Store) -> str | None:
    """What a goal is, in words; None for a page of text, which says it itself."""
    if isinstance(goal, HasSentence):
        return goal.sentence(store)
    if not isinstance(goal, Stage) or hasattr(goal, "make"):
        return None
    seconds = json.loads((store.path(goal) / "meta.json").read_text())["seconds"]
    return f"{goal.kind.replace('_', ' ')} of {label(goal)}, computed in {time_text(seconds)}."


def results_of(jobs: Sequence[tuple[Stage, str, str]]) -> list[str]:
    """A line for every job of a multirun: what was made, and where.

    Args:
        jobs: each with its goal, its settings and the path of its result; settings are added to
            labels that several have.
    """
    labels = [f"{goal.kind.replace('_', ' ')} of {label(goal)}" for goal, _, _ in jobs]
    often = Counter(labels)
    return columns(
        [
            [name if often[name] == 1 else f"{name} ({settings})", path]
            for name, (_, settings, path) in zip(labels, jobs, strict=True)
        ]
    )
