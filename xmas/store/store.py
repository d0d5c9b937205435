"""The store: a result is computed once and found again by the identity of its stage."""

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xmas.store import by_name, distributed
from xmas.store.atomic import discard, publish, restore
from xmas.store.chain import Chain
from xmas.store.computation import Computation, counted_for
from xmas.store.durable import make_folder, sync
from xmas.store.force import kinds_of, started
from xmas.store.full_disk import full_disk
from xmas.store.integrity import META, check, finished_folders, meta_of
from xmas.store.label import label
from xmas.store.lock import alone
from xmas.store.provenance import finished
from xmas.store.record import Announced, recorded
from xmas.store.run_logger import RunLogger
from xmas.store.stage import (
    ChangedFileError,
    Made,
    Stage,
    check_unchanged,
    describe,
    digest,
    hashed_files,
    key,
)
from xmas.store.writable import check_writable

log = logging.getLogger(__name__)

_AGREED: set[str] = set()  # results that all ranks of this run have found finished
_LOGGED: set[str] = set()  # results that this process has logged as done or reused


def _log_reused(folder: Path) -> None:
    """Log one line for a reused result, unless this process has computed or reused it before."""
    if str(folder) not in _LOGGED:
        log.info("%-14s %s reused    %s", folder.parent.name, folder.name, folder)
    _LOGGED.add(str(folder))


def _name(stage: Stage) -> str:
    return f"{stage.kind}/{key(stage)}"


def _ask(folder: Path) -> None:
    """Note a result as an input of the computation that asks for it."""
    if Computation.running is not None:
        Computation.running.ask(f"{folder.parent.name}/{folder.name}")


def _log_event(draft: Path, event: str) -> None:
    log.info("%-14s %s %s", draft.parent.name, draft.name[1:], event)


def _log_waiting(draft: Path) -> None:
    _log_event(draft, f"waits for another process: {Computation.process(draft)}")


@dataclasses.dataclass(frozen=True)
class Store:
    """Results in folders `root/<kind>/<key>/`, unfinished ones in hidden folders `.<key>`.

    >>> from xmas import Pool, Ranking, Store
    >>> from xmas.selection.methods.random import Random
    >>> store, ranking = Store("results"), Ranking(Pool("mix.json", "images"), Random())
    >>> folder = store.get(ranking)  # computes the first time, later it is found
    >>> folder == store.path(ranking)
    True
    >>> sorted(path.name for path in folder.iterdir())
    ['clusters.npy', 'meta.json', 'order.npy', 'row_scores.npy']
    """

    root: str = "store"
    locks: str = "auto"  # or flock, or lease for hosts that do not see each other's flock
    run_logger: RunLogger | None = dataclasses.field(default=None, compare=False, repr=False)
    force: str | Sequence[str] | None = dataclasses.field(  # kinds that are computed anew, once
        default=None, compare=False, repr=False
    )
    since: float = dataclasses.field(default_factory=started, compare=False, repr=False)

    def path(self, stage: Stage) -> Path:
        """The folder where the result of `stage` is, or will be."""
        return self._folder(stage, describe(stage))

    def _folder(self, stage: Stage, identity: Any) -> Path:
        return Path(self.root, stage.kind, digest(identity))

    def get(self, stage: Stage) -> Path:
        """Return the folder with the result of `stage`, computing it if it is not there.

        Several processes that ask for the same stage compute it once. Under torchrun all ranks ask
        for the same stages: rank 0 computes, and calls the others for stages that are computed
        together. A failed or killed attempt leaves its draft; the next call resumes from it.

        Raises:
            Exception: any that `stage.compute` raises; the draft's `error.txt` has its traceback.
        """
        if not distributed.launched():
            return self._get_alone(stage)
        folder = self.path(stage)
        _ask(folder)
        if str(folder) in _AGREED and folder.exists():
            return folder
        if not distributed.leads():
            self._join_rank_0(stage)
        elif distributed.shared():
            self._get_for_all_ranks(stage)
        else:
            return self._get_alone(stage)
        distributed.barrier()
        _AGREED.add(str(folder))
        return folder

    def _get_for_all_ranks(self, stage: Stage) -> None:
        """On rank 0: the result is found or computed; the other ranks get a message."""
        try:
            self._get_alone(stage)
        except BaseException as error:
            distributed.send(("failed", repr(error)))
            raise
        distributed.send(("finished", None))

    def _get_alone(self, stage: Stage) -> Path:
        """The result of `stage`, computed here, or by another process that has its lock."""
        with hashed_files() as hashes:  # of what is part of the key, and of what is read
            identity = describe(stage)
            folder = self._folder(stage, identity)
            _ask(folder)
            if self._is_finished(stage, folder):
                return self._reused(folder)
            check_writable(folder.parent, result=folder.name)
            make_folder(folder.parent)
            draft = folder.with_name(f".{folder.name}")
            waiting = functools.partial(_log_waiting, draft)
            with alone(draft, kind=self.locks, waiting=waiting):
                restore(draft, folder, whole=META)
                if self._is_finished(stage, folder):
                    return self._reused(folder)
                name = label(stage)
                self._make(stage, draft, Announced(name, identity), hashes)
                publish(draft, folder)
                by_name.link(folder, name)
        _log_event(draft, f"done      {folder}")
        _LOGGED.add(str(folder))
        if self.run_logger is not None:
            self.run_logger.enter(folder)
        return folder

    def _make(
        self, stage: Stage, draft: Path, announced: Announced, hashes: dict[str, str]
    ) -> None:
        """Fill the draft. `hashes`: of the files that the stage's key was made from.

        Raises ChangedFileError: one of them changed meanwhile. How much of the draft comes from the
        changed file is unknown, so the draft is removed.
        """
        has_draft = draft.exists()
        if has_draft:  # before anything relies on what a killed attempt has left
            sync(draft)
        else:
            make_folder(draft)
        _log_event(draft, "resumed" if has_draft else "computing")
        try:
            with recorded(stage, draft, announced, resumed=has_draft), stage.scope():
                self._compute(stage, draft)
                check_unchanged(hashes)
        except Exception as error:
            try:
                check_unchanged(hashes)
            except ChangedFileError as change:
                discard(draft)
                raise ChangedFileError(
                    f"{change} while {stage.kind} {draft.name[1:]} was computed from it; nothing "
                    "was stored. Run the same command again: it computes that of the file as it is"
                ) from error
            if (full := full_disk(error, draft)) is not None:
                raise full from error
            raise

    def _is_finished(self, stage: Stage, folder: Path) -> bool:
        """Whether the result is finished and need not be computed anew."""
        if not folder.exists():
            return False
        if stage.kind not in kinds_of(self.force):
            return True
        return self.since <= finished(folder) <= time.time()  # later: by a clock that is ahead

    def _reused(self, folder: Path) -> Path:
        """The folder of a finished result. Raises DamagedResultError: a file is not as written."""
        check(folder)
        _log_reused(folder)
        Chain.note(f"{folder.parent.name}/{folder.name}", None)
        return folder

    def fit_logger(self, stage: Stage) -> Any:
        """Lightning's logger for the fit of `stage`; None without a run logger."""
        return None if self.run_logger is None else self.run_logger.fit_logger(stage)

    def counted_for(self, stage: Stage) -> contextlib.AbstractContextManager[None]:
        """Count the seconds and inputs of the work inside for `stage`, which waits for this one.

        A context manager; see `xmas.store.computation.counted_for`.
        """
        return counted_for(_name(stage))

    def _compute(self, stage: Stage, draft: Path) -> None:
        """Compute the stage; rank 0 calls the other ranks for one that is computed together."""
        if not distributed.launched():
            return stage.compute(self, draft)
        if stage.together:  # the stage is sent along unless all ranks are asking for it
            distributed.send(("compute", None if distributed.shared() else stage))
        with distributed.sharing(stage.together):
            stage.compute(self, draft)
            distributed.barrier()  # no rank writes into the draft any more
        return None

    def _join_rank_0(self, stage: Stage) -> None:
        """Compute with rank 0 whenever it calls, until the result of `stage` is finished.

        Rank 0 alone takes the lock and renames. A stage that it computes alone may ask for stages
        that are computed together; those are sent with the call.
        """
        with stage.scope():
            while (message := distributed.receive())[0] == "compute":
                requested_stage = message[1] or stage
                requested_stage.compute(self, self._draft(requested_stage))
                distributed.barrier()
        if message[0] == "failed":
            raise RuntimeError(f"rank 0 could not make {stage.kind} {key(stage)}: {message[1]}")

    def _draft(self, stage: Stage) -> Path:
        return self.path(stage).with_name(f".{key(stage)}")

    def find(self, path_or_made: "str | Made") -> Path:
        """The path of a file or folder; one inside a stage's result is computed if it is absent."""
        if isinstance(path_or_made, Made):
            return self.get(path_or_made.stage) / path_or_made.name
        return Path(path_or_made).expanduser()

    def results(self, kind: str) -> list[tuple[Path, dict[str, Any]]]:
        """Every finished result of a kind with its `meta.json`, in the order of their folders."""
        return [(folder, meta_of(folder)) for folder in finished_folders(Path(self.root), kind)]
