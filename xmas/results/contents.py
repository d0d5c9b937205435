"""Everything that is in a store's folder: results, unfinished drafts, and what is neither.

Only what the store itself has written counts as its own: folders named by keys whose record says
the same key. Everything else is left alone.
"""

import contextlib
import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from xmas.store import Store, read_meta
from xmas.store.computation import Computation
from xmas.store.former_records import stages_of_fields
from xmas.store.index import Result, key_of
from xmas.store.integrity import META
from xmas.store.label import label
from xmas.store.lock import is_held
from xmas.store.provenance import finished
from xmas.store.record import ANNOUNCED

_KEY = re.compile(r"[0-9a-f]{12}")
_DRAFT = re.compile(r"\.([0-9a-f]{12})")
_LEFTOVER = re.compile(r"\.([0-9a-f]{12})\.(former|removed)")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A folder of the store."""

    kind: str
    key: str
    folder: Path
    label: str
    bytes: int
    changed: float  # seconds since the epoch: when a result was finished, a draft last written to
    seconds: float | None = None  # of computing; None if it is not known
    config: dict[str, Any] = dataclasses.field(default_factory=dict)  # empty if it is not known
    inputs: tuple[str, ...] = ()  # keys of the results that it was or will be made from
    recorded: bool = True  # whether it says itself what it asked for; former results do not
    error: str = ""  # of a draft: the last line of its traceback
    running: bool = False  # a process computes it now


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a store contains, each list in the order of `kind` and `label`."""

    results: list[Entry]
    drafts: list[Entry]
    leftovers: list[Path]  # of a replacement or removal that was interrupted
    unreadable: dict[Path, str]  # folders named by a key whose record cannot be read, and why


def contents(store: Store) -> Contents:
    """Read what is in a store; nothing is changed, and no file but records is opened."""
    folders = Contents([], [], [], {})
    for folder in sorted(Path(store.root).glob("*/*")):
        if not folder.is_dir() or folder.is_symlink():
            continue
        if _KEY.fullmatch(folder.name):
            _add_result(folders, folder)
        elif draft := _DRAFT.fullmatch(folder.name):
            folders.drafts.append(_draft(folder, draft[1], store.locks))
        elif _LEFTOVER.fullmatch(folder.name):
            folders.leftovers.append(folder)
    folders.results.sort(key=lambda entry: (entry.kind, entry.label, entry.key))
    folders.drafts.sort(key=lambda entry: (entry.kind, entry.label, entry.key))
    return folders


def _add_result(folders: Contents, folder: Path) -> None:
    if not (folder / META).exists():
        folders.unreadable[folder] = "there is no meta.json"
        return
    try:
        result = Result.read(folder)
        if (result.meta["kind"], result.meta["key"]) != (result.kind, result.key):
            folders.unreadable[folder] = (
                f"meta.json is of {result.meta['kind']} {result.meta['key']}"
            )
            return
        entry = Entry(
            kind=result.kind,
            key=result.key,
            folder=folder,
            label=result.meta.get("label") or label(result.config),
            bytes=size(folder),
            changed=finished(folder),
            seconds=result.seconds,
            config=result.config,
            inputs=tuple(result.inputs),
            recorded=result.recorded,
        )
    except KeyError as error:
        folders.unreadable[folder] = f"meta.json has no {error}"
    except (ValueError, TypeError, AttributeError, OSError) as error:
        folders.unreadable[folder] = f"meta.json cannot be read: {error}"
    else:
        folders.results.append(entry)


def _draft(folder: Path, key: str, locks: str) -> Entry:
    announced: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        announced = read_meta(folder / ANNOUNCED)
    error = ""
    with contextlib.suppress(OSError):
        error = (folder / "error.txt").read_text().rstrip().rpartition("\n")[2]
    seconds, asked_for = Computation.read(folder)
    config = announced.get("config", {})
    inputs = [name.rpartition("/")[2] for name in asked_for]
    inputs += [key_of(stage) for stage in stages_of_fields(config)]  # asked for later, perhaps
    return Entry(
        kind=folder.parent.name,
        key=key,
        folder=folder,
        label=announced.get("label", ""),
        bytes=size(folder),
        changed=last_written(folder),
        seconds=seconds,
        config=config,
        inputs=tuple(dict.fromkeys(inputs)),
        error=error,
        running=is_held(folder, kind=locks),
    )


def size(folder: Path) -> int:
    """Bytes of all files in a folder; links count nothing."""
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += size(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):  # a draft's files come and go
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def last_written(folder: Path) -> float:
    """When a folder or anything in it was last written to, in seconds since the epoch."""
    times = [0.0]
    for parent, _, files in os.walk(folder):
        for path in [parent, *(os.path.join(parent, file) for file in files)]:
            with contextlib.suppress(FileNotFoundError):
                times.append(os.lstat(path).st_mtime)
    return max(times)
