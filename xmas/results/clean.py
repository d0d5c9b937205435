"""Remove what nothing needs from a store: `xmas goal=clean`, which shows it first."""

import contextlib
import dataclasses
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from xmas.results.contents import Contents, Entry, contents
from xmas.results.listing import listed, size_text, time_text, total
from xmas.store import Store, by_name
from xmas.store.atomic import discard, removed_of, restore
from xmas.store.force import kinds_of
from xmas.store.index import Result, ResultIndex
from xmas.store.lock import alone_if_free
from xmas.store.nearest import suggestion

log = logging.getLogger(__name__)

PRODUCTS = (  # kinds that people ask for
    *("score", "scores", "subset", "subset_files", "audit", "exam", "export"),
)
_DAY = 86400.0


@dataclasses.dataclass(frozen=True)
class Clean:
    """What `goal=clean` makes: a list of what is not needed; with `yes`, it is removed.

    Kept are the results of the kinds `keep`, all that these and recent drafts were made from, and
    everything younger than `days`. A draft that a process works on is kept, and so are all results
    until it ends: what it will still ask for is not known. Only folders that the store has written
    are removed.
    """

    yes: bool = False
    keep: str | Sequence[str] = PRODUCTS
    days: float = 7.0

    def make(self, store: Store) -> str:
        """The list, and what was or would be removed.

        Raises ValueError: `keep` names a kind that neither exists nor is in the store. Raises
        OSError: a folder cannot be removed; others may be.
        """
        folders = contents(store)
        self._check({entry.kind for entry in folders.results})
        results, drafts = self.unneeded(folders)
        lines = [*self._notes(folders)]
        if not results and not drafts and not folders.leftovers:
            return "\n".join([*lines, f"{store.root}: nothing to remove; {self._rule()}"])
        if results:
            lines += [*listed(results), ""]
        if drafts:
            lines += ["Drafts of results that were never finished:"]
            lines += [f"  {_line(draft)}" for draft in drafts] + [""]
        lines += [f"Left over from an interruption: {folder}" for folder in folders.leftovers]
        size = size_text(sum(entry.bytes for entry in [*results, *drafts]))
        lines += [f"{store.root}: {total(results)}, {len(drafts)} drafts; {self._rule()}"]
        if not self.yes:
            return "\n".join([*lines, f"Nothing is removed yet: clean.yes=true frees {size}"])
        removed = [entry for entry in [*results, *drafts] if remove(entry.folder, store)]
        for folder in folders.leftovers:
            finish(folder, store)
        for kind in {entry.folder.parent for entry in removed}:
            by_name.unlink_removed(kind)
        size = size_text(sum(entry.bytes for entry in removed))
        busy = len(results) + len(drafts) - len(removed)
        lines += [f"Removed {len(removed)}: {size}"]
        lines += [f"Kept {busy}: another process has begun to compute them"] if busy else []
        return "\n".join(lines)

    def unneeded(self, folders: Contents) -> tuple[list[Entry], list[Entry]]:
        """The results and the drafts that can be removed."""
        oldest = time.time() - self.days * _DAY
        recent = [draft for draft in folders.drafts if draft.running or draft.changed > oldest]
        drafts = [draft for draft in folders.drafts if draft not in recent]
        if any(draft.running for draft in recent):
            return [], drafts
        roots = [
            entry
            for entry in folders.results
            if entry.kind in kinds_of(self.keep) or entry.changed > oldest
        ]
        needed_keys = needed_by([*roots, *recent], folders.results)
        return [entry for entry in folders.results if entry.key not in needed_keys], drafts

    def _check(self, kinds: set[str]) -> None:
        """A misspelt kind would keep nothing."""
        names = sorted(kinds.union(PRODUCTS))
        for kind in kinds_of(self.keep):
            if kind not in names:
                raise ValueError(f"clean.keep={kind}: no such kind{suggestion(kind, names)}")

    def _rule(self) -> str:
        kinds = ", ".join(kinds_of(self.keep)) or "nothing"
        return f"kept: {kinds}, what these were made from, and what is younger than {self.days:g} d"

    def _notes(self, folders: Contents) -> Iterator[str]:
        for draft in folders.drafts:
            if draft.running:
                yield f"Running: {draft.kind} {draft.key}; until it ends, all results are kept"
        former = [entry for entry in folders.results if not entry.recorded]
        if former:
            count = "1 result was" if len(former) == 1 else f"{len(former)} results were"
            yield (
                f"{count} made by an older version that did not record its inputs: token tables "
                "and image features they used may be listed as removable."
            )
        for folder, why in folders.unreadable.items():
            yield f"Left alone: {folder}: {why}"


def needed_by(kept: Sequence[Entry], results: Sequence[Entry]) -> set[str]:
    """The keys of `kept` and of all that they were made from, in however many steps."""
    index = ResultIndex.of(Result.read(entry.folder) for entry in results)
    inputs = [key for entry in kept for key in entry.inputs]
    made_from = index.made_from(inputs, described=[entry.config for entry in kept])
    return {entry.key for entry in kept} | made_from.keys()


def remove(folder: Path, store: Store) -> bool:
    """Remove a result or draft under its lock; False if another process has the lock."""
    final_folder = folder.with_name(folder.name.lstrip("."))
    with alone_if_free(final_folder.with_name(f".{final_folder.name}"), kind=store.locks) as free:
        if not free:
            return False
        with contextlib.suppress(FileNotFoundError):  # removed by another process
            discard(folder)
    log.info("%-14s %s removed", folder.parent.name, final_folder.name)
    return True


def finish(leftover: Path, store: Store) -> None:
    """End the replacement or removal that has left this folder, unless it is under way."""
    key = leftover.name.split(".")[1]
    final_folder, draft = leftover.with_name(key), leftover.with_name(f".{key}")
    with alone_if_free(draft, kind=store.locks) as free:
        if not free:
            return
        if leftover == removed_of(final_folder):
            shutil.rmtree(leftover)
        else:
            restore(draft, final_folder, whole="meta.json")


def _line(draft: Entry) -> str:
    age = time_text(time.time() - draft.changed)
    label = f" ({draft.label})" if draft.label else ""
    error = f": {draft.error}" if draft.error else ""
    return f"{draft.kind} {draft.key}{label}, {size_text(draft.bytes)}, {age} old{error}"
