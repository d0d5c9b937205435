"""Loggers: the results of a store, recorded once more where people view runs.

One run for every result that has something to show, all runs of a sweep in one group. What is
logged comes from the finished result, so results that were there before are logged as well, each
once in a group; the fit of a model is followed while it runs. A run that a killed process left
unfinished is replaced as a whole by the one that resumes from its checkpoint.
"""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch.loggers import Logger

from xmas.results.logger.entry import Entry, entry_of
from xmas.store import Stage, Store, describe, key, write_atomically
from xmas.store.index import Result, ResultIndex

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunLogger:
    """A logger of one sweep, as `xmas.store.RunLogger`; subclasses define the destination."""

    folder: str = "store/logged"
    group: str | None = None  # of the sweep; null: named as its experiment
    _open: dict[str, Logger] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def begin(self, kind: str, key: str) -> Logger:
        """An empty run for a result; it replaces one that an earlier attempt left."""
        raise NotImplementedError(f"{type(self).__name__} does not say how a run begins")

    def end(self, logger: Logger, entry: Entry) -> None:
        """Name the run, add what its finished result contains, and finish it."""
        raise NotImplementedError(f"{type(self).__name__} does not say how a run ends")

    def drop(self, logger: Logger) -> None:
        """Mark a run whose stage failed."""
        logger.finalize("failed")

    def fit_logger(self, stage: Stage) -> Logger:
        """Lightning's logger for a fit of `stage`, which `enter` finishes."""
        name = key(stage)
        self._open[name] = self.begin(stage.kind, name)
        return self._open[name]

    def enter(self, folder: Path) -> None:
        """Log a finished result, unless this group has it or `entry_of` has nothing to log."""
        if self._mark(folder.parent.name, folder.name).exists():
            return
        store = Store(str(folder.parent.parent))
        if (entry := entry_of(Result.read(folder), store)) is not None:
            self.add(entry)

    def add(self, entry: Entry, *, again: bool = False) -> None:
        """Log an entry; `again`: also if this group has it, replacing that."""
        mark = self._mark(entry.kind, entry.key)
        mark.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(mark.with_suffix(".lock")):
            if mark.exists() and not again:
                return
            fit_logger = self._open.pop(entry.key, None)
            logger = fit_logger or self.begin(entry.kind, entry.key)
            for step, values in entry.curves if fit_logger is None else ():
                logger.log_metrics(values, step)
            self.end(logger, entry)
            write_atomically(mark, lambda path: path.write_text(json.dumps({"name": entry.name})))
        log.info("%-14s %s logged to %s", entry.kind, entry.key, self.where)

    def enter_all(self, goal: Stage, store: Store) -> None:
        """Log the result of a goal and all that it was made from, as far as the store has it."""
        for result in reversed(ResultIndex(store).inside(describe(goal)).values()):
            self.enter(result.folder)

    def enter_page(self, name: str, files: list[Path]) -> None:
        """Log the files of a table or report, replacing earlier ones of the same name."""
        self.add(Entry(name, "latest", name, {}, files=tuple(files)), again=True)

    def close(self) -> None:
        """Mark the runs of stages that did not finish as failed."""
        while self._open:
            self.drop(self._open.popitem()[1])

    def _mark(self, kind: str, key: str) -> Path:
        """The file that marks a result as logged; without it, it is logged again."""
        return Path(self.folder) / "entered" / self.where / f"{kind}-{key}.json"

    @property
    def where(self) -> str:
        """Logger and group, as a path."""
        return f"{type(self).__name__.lower()}/{self.named}"

    @property
    def named(self) -> str:
        return self.group or "xmas"

    def __getstate__(self) -> dict[str, Any]:
        """Open runs are not pickled: they belong to the process that began them."""
        return {**self.__dict__, "_open": {}}
