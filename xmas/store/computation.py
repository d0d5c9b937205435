"""Computations that are running: the seconds each has spent and the results it asked for.

A stage that asks the store for another one waits for it, so running computations are nested, and
each counts only its own seconds. Both go into `meta.json`. Costs follow the results asked for: the
fields of a stage do not tell, since it may hold another stage and never use it.
"""

import contextlib
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from xmas.store.atomic import partial_of, write_atomically

log = logging.getLogger(__name__)

_FILE = "attempts.json"
_SECONDS = "seconds.json"  # a number: what attempts left until inputs were recorded


class Computation:
    """A stage in computation in this process, over all attempts; `name` is `<kind>/<key>`.

    `attempts.json` in the draft keeps seconds and inputs for the next attempt. It is written at
    every new input, so that of a killed process only the seconds since then are lost.
    `inputs` is None in a draft from the time before inputs were recorded: what the attempts of that
    time asked for is unknown.
    """

    running: ClassVar["Computation | None"] = None  # whose seconds pass: mostly the innermost
    stack: ClassVar[list["Computation"]] = []  # all that have not ended, the innermost last

    def __init__(self, name: str, draft: Path) -> None:
        self.name = name
        self.draft = draft
        self.earlier = 0.0  # seconds, of earlier attempts too, until it last began to run
        self.since: float | None = None  # when that was; None: it waits for another computation
        self.inputs: dict[str, None] | None = {}

    def resume(self) -> None:
        """Add what earlier attempts have left in the draft."""
        if (attempts := self.draft / _FILE).exists():
            try:
                record = json.loads(attempts.read_text())
                self.earlier = float(record["seconds"])
                self.inputs = None if record["inputs"] is None else dict.fromkeys(record["inputs"])
            except (ValueError, TypeError, KeyError) as error:
                log.warning(
                    "%s cannot be read (%s): seconds and inputs of earlier attempts are not "
                    "recorded", attempts, error,
                )  # fmt: skip
                self.inputs = None
            return
        unfinished = partial_of(self.draft / _FILE).name
        if any(path.name != unfinished for path in self.draft.iterdir()):
            self.inputs = None
        if (former := self.draft / _SECONDS).exists():
            self.earlier = json.loads(former.read_text())

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """What is asked of the store inside is asked by this computation."""
        self.stack.append(self)
        try:
            with self._timed():
                self.save()
                try:
                    yield
                except BaseException:
                    with contextlib.suppress(OSError):  # of a full disk: the first error says more
                        self.save()
                    raise
        finally:
            self.stack.remove(self)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Inside, seconds pass for this computation instead of the one that was running."""
        before = Computation.running
        if before is not None:
            before._stop()
        Computation.running, self.since = self, time.monotonic()
        try:
            yield
        finally:
            self._stop()
            Computation.running = before
            if before is not None:
                before.since = time.monotonic()

    def _stop(self) -> None:
        self.earlier, self.since = self.seconds, None

    def ask(self, name: str) -> None:
        """Note an input, computed or reused; of several times the first counts."""
        if self.inputs is not None and name not in self.inputs:
            self.inputs[name] = None
            self.save()

    @staticmethod
    def read(draft: Path) -> tuple[float | None, list[str]]:
        """The seconds that attempts have spent on a draft, None if unknown, and their inputs."""
        try:
            record = json.loads((draft / _FILE).read_text())
            return float(record["seconds"]), [*(record["inputs"] or [])]
        except (OSError, ValueError, TypeError, KeyError):
            return None, []

    @staticmethod
    def process(draft: Path) -> str:
        """Which process works on a draft, as far as it says so."""
        try:
            record = json.loads((draft / _FILE).read_text())
            return f"process {record['pid']} on host {record['host']}"
        except (OSError, ValueError, TypeError, KeyError):
            return "it has just begun"

    @property
    def seconds(self) -> float:
        """Seconds of this stage alone, over all attempts."""
        return self.earlier + (0.0 if self.since is None else time.monotonic() - self.since)

    def save(self) -> None:
        record = {
            "seconds": round(self.seconds, 3),
            "inputs": None if self.inputs is None else list(self.inputs),
            "host": platform.node(),
            "pid": os.getpid(),
        }
        write_atomically(self.draft / _FILE, lambda path: path.write_text(json.dumps(record)))


@contextlib.contextmanager
def counted_for(name: str) -> Iterator[None]:
    """Count the seconds and inputs of the work inside for a computation that waits.

    While trajectories wait for a proxy's fit, the fit calls them at every snapshot: these seconds
    are the trajectories'. Without such a computation (other ranks) nothing is counted.
    """
    inner = Computation.running
    owner = next((one for one in Computation.stack if one.name == name), None)
    if inner is None or owner is None or owner is inner:
        yield
        return
    try:
        with owner._timed():
            yield
    finally:
        inner.save()
        owner.save()
