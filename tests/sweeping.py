"""Selectors for tests of multiruns: one that fails, and one whose shared stage is killed once."""

import dataclasses
import os
import signal
import time
from pathlib import Path
from typing import ClassVar

import numpy as np

from xmas.data.pool import Pool
from xmas.selection.protocol import Ranked
from xmas.store import Stage, Store, volatile


def until_another_waits(logs: Path) -> None:
    """Return when a job has logged that it waits; after a minute in any case."""
    end = time.monotonic() + 60
    while time.monotonic() < end and not any(
        "waits for another process" in log.read_text() for log in logs.glob("*.log")
    ):
        time.sleep(0.01)


@dataclasses.dataclass(frozen=True)
class Shared(Stage):
    """What all jobs need. Where `deadly` is there, who computes it first is killed on the way."""

    kind: ClassVar[str] = "shared"

    marks: str = volatile()

    def compute(self, store: Store, out: Path) -> None:
        marks = Path(self.marks)
        (marks / f"started-{os.getpid()}").touch()
        if (marks / "deadly").exists():
            until_another_waits(Path(store.root) / "logs")
            (marks / "deadly").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        (marks / f"finished-{os.getpid()}").touch()


@dataclasses.dataclass(frozen=True)
class Sweeping:
    """The pool's order, behind a shared stage; `fails` raises until `marks` has a file mended."""

    marks: str = volatile()
    fails: bool = False

    def rank(self, pool: Pool, rng: np.random.Generator, store: Store) -> Ranked:
        if self.fails and not (Path(self.marks) / "mended").exists():
            raise OSError("no space left")
        store.get(Shared(self.marks))
        (Path(self.marks) / f"devices-{os.environ.get('CUDA_VISIBLE_DEVICES')}").touch()
        (Path(self.marks) / f"rank-{os.environ.get('RANK')}").touch()
        count = len(pool.open(store))
        return Ranked(np.arange(count), np.zeros(count), np.full(count, -1))
