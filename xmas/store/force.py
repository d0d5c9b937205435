"""Which results `force=KIND` computes anew: those of a kind, each once in a command.

A result that is older than the command is computed anew; one that is younger was, by whichever of
the command's processes came first: ranks, jobs of a sweep, hosts of a cluster (where clocks differ
by seconds, a result may be computed once more, never less).
"""

import os
import time
from collections.abc import Iterable

_STARTED = "XMAS_STARTED"  # in the environment, which the processes of a command share


def start_command() -> None:
    """Note when this command starts, unless it is part of one that has started."""
    os.environ.setdefault(_STARTED, repr(time.time()))


def started() -> float:
    """When this command started, in seconds since the epoch; now, if Python calls the store."""
    return float(os.environ.get(_STARTED, time.time()))


def kinds_of(force: str | Iterable[str] | None) -> tuple[str, ...]:
    """The kinds that `force` names: one, a list, or none."""
    if force is None:
        return ()
    return (force,) if isinstance(force, str) else tuple(force)
