"""No waiting for the disk: what a test writes need not survive a power cut.

A sync takes 4 ms, thousands of times, and its threads cost CPU seconds even where it does nothing.
`power_cut` uses the package's own.
"""

import os

from xmas.store import durable

OWN = durable._sync, durable.ThreadPoolExecutor  # the package's


class InTurn:
    """An executor without threads."""

    def __init__(self, threads: int) -> None:
        self.map = map

    def __enter__(self) -> "InTurn":
        return self

    def __exit__(self, *_: object) -> None:
        return None


def unsynced() -> None:
    """Have this process and its forks sync nothing."""
    os.fsync = lambda descriptor: None
    durable._sync, durable.ThreadPoolExecutor = lambda path: None, InTurn
