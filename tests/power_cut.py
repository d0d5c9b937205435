"""Power cuts: what a disk may contain if the power fails at any moment of a run.

`Recording` follows a folder while stages write into it. What was synced (fsync, msync) is on the
disk; of everything else it knows the last synced state and the present one. `disk` then builds one
of the states that a file system may be left with: files written since their last sync are as they
were, empty, cut, zeros, or a mixture of old and new blocks; names created, renamed or removed since
their folder was synced are there or not, each independent of the others, a rename whole.

Source of the model: Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014).
"""

import dataclasses
import json
import os
import random
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from killable import Asked
from toy import HARDWARE, Toy
from unsynced import OWN

from xmas.evaluation.generation.settings import Generation
from xmas.evaluation.scores import Score
from xmas.features.activations import Activations
from xmas.features.clip.clip import ClipEmbeddings
from xmas.features.clip.clip_rows import ClipRows
from xmas.features.clustering.spherical import Spherical
from xmas.features.losses.answer_scorer import ScorerSettings
from xmas.features.losses.answers import Answers
from xmas.store import Stage, Store, durable
from xmas.store.by_name import LINKS
from xmas.store.index import ResultIndex
from xmas.training.proxy import Proxy

BLOCK = 512  # bytes that reach the disk together; less than a disk's, as the toy's files are small

Entries = dict[str, int]  # names in a folder, with their inodes


@dataclasses.dataclass(frozen=True)
class State:
    """Folders with their entries, files with their content and links with their target, by inode.

    A state on the disk lacks inodes that were never synced.
    """

    folders: dict[int, Entries]
    files: dict[int, bytes]
    links: dict[int, str]


@dataclasses.dataclass(frozen=True)
class Moment:
    """The power may fail here: just before a sync, or at the end; `what` is about to be synced."""

    synced: State
    present: State
    what: str


class Recording:
    """The moments of everything that happens in `root` within a with block."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.moments: list[Moment] = []
        self._lock = threading.Lock()
        self._pins: dict[int, int] = {}  # open files, so that no inode number is used again
        self._folders: dict[int, Entries] = {}
        self._files: dict[int, bytes] = {}
        self._originals: Any = None

    def __enter__(self) -> "Recording":
        start = self._observe(None)
        self._folders, self._files = dict(start.folders), dict(start.files)
        self._originals = os.fsync, np.memmap.flush, durable._sync, durable.ThreadPoolExecutor
        flush = np.memmap.flush

        def synced(file: int) -> None:
            self._sync(os.fstat(file).st_ino)

        def flushed(array: np.memmap) -> None:
            flush(array)
            if array.filename is not None and os.path.exists(array.filename):
                self._sync(os.stat(array.filename).st_ino)

        os.fsync, np.memmap.flush = synced, flushed
        durable._sync, durable.ThreadPoolExecutor = OWN
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync, np.memmap.flush, durable._sync, durable.ThreadPoolExecutor = self._originals
        self._note("the end")
        for file in self._pins.values():
            os.close(file)

    def _sync(self, inode: int) -> None:
        with self._lock:
            present = self._note(str(inode))
            if inode in present.folders:
                self._folders[inode] = present.folders[inode]
            elif inode in present.files:
                self._files[inode] = present.files[inode]

    def _note(self, what: str) -> State:
        before = self.moments[-1].present if self.moments else None
        present = self._observe(before)
        synced = State(dict(self._folders), dict(self._files), present.links)
        self.moments.append(Moment(synced, present, what))
        return present

    def _observe(self, before: State | None) -> State:
        state = State({}, {}, {})
        self._walk(str(self.root), state, before)
        return state

    def _walk(self, folder: str, state: State, before: State | None) -> int:
        inode = self._pinned(folder)
        entries = state.folders[inode] = {}
        with os.scandir(folder) as found:
            children = sorted(found, key=lambda entry: entry.name)
        for entry in children:
            try:
                if entry.is_symlink():
                    state.links[entry.inode()] = os.readlink(entry.path)
                    entries[entry.name] = entry.inode()
                elif entry.is_dir():
                    entries[entry.name] = self._walk(entry.path, state, before)
                else:
                    entries[entry.name] = number = self._pinned(entry.path)
                    content = Path(entry.path).read_bytes()
                    same = before is not None and before.files.get(number) == content
                    state.files[number] = before.files[number] if same and before else content
            except FileNotFoundError:  # removed by another thread meanwhile
                continue
        return inode

    def _pinned(self, path: str) -> int:
        inode = os.stat(path).st_ino
        if inode not in self._pins:
            self._pins[inode] = os.open(path, os.O_RDONLY)
        return inode


def disk(moment: Moment, root: Path, rng: random.Random, how: str) -> None:
    """Build in `root` what the disk may contain.

    Args:
        how: "dropped": nothing that was not synced; "names": all names, no unsynced content;
            "random": anything between these and all.
    """
    (top,) = [inode for inode in moment.present.folders if not _is_child(moment.present, inode)]
    _build(moment, top, root, rng, how)


def _is_child(state: State, inode: int) -> bool:
    return any(inode in entries.values() for entries in state.folders.values())


def _build(moment: Moment, inode: int, path: Path, rng: random.Random, how: str) -> None:
    path.mkdir(exist_ok=True)
    for name, number in _entries(moment, inode, rng, how).items():
        place = path / name
        if number in moment.present.links:
            place.symlink_to(moment.present.links[number])
        elif number in moment.synced.folders or number in moment.present.folders:
            _build(moment, number, place, rng, how)
        else:
            place.write_bytes(_content(moment, number, rng, how))


def _entries(moment: Moment, inode: int, rng: random.Random, how: str) -> Entries:
    """The names in a folder: those that were synced, and some of the changes since."""
    entries = dict(moment.synced.folders.get(inode, {}))
    present = moment.present.folders.get(inode)
    if present is None:  # removed since; its entries may be gone, or not
        return entries if how == "dropped" else _some(entries, rng)
    for names in _changes(entries, present):
        if how == "names" or (how == "random" and rng.random() < 0.5):
            for name in names:
                entries.pop(name, None)
            entries |= {name: present[name] for name in names if name in present}
    return entries


def _some(entries: Entries, rng: random.Random) -> Entries:
    return {name: inode for name, inode in entries.items() if rng.random() < 0.5}


def _changes(before: Entries, after: Entries) -> Iterator[set[str]]:
    """Names that changed; those that share an inode, as in a rename, together."""
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    while changed:
        names = {min(changed)}
        while True:
            inodes = {entries[name] for entries in (before, after) for name in names & set(entries)}
            linked = {
                name for name in changed if before.get(name) in inodes or after.get(name) in inodes
            }
            if linked <= names:
                break
            names |= linked
        changed -= names
        yield names


def _content(moment: Moment, inode: int, rng: random.Random, how: str) -> bytes:
    synced = moment.synced.files.get(inode, b"")
    present = moment.present.files.get(inode, synced)  # removed since
    if synced == present or how != "random":
        return synced
    blocks = range(0, len(present), BLOCK)
    mixed = b"".join(
        (present if rng.random() < 0.5 else synced.ljust(len(present), b"\0"))[at : at + BLOCK]
        for at in blocks
    )
    zeros = bytes(len(present))
    return rng.choice([synced, present, mixed, zeros, present[: rng.randrange(len(present) + 1)]])


@dataclasses.dataclass(frozen=True)
class Job:
    """Stages that are asked for one after the other, as commands would.

    Args:
        stages: of the toy.
        needs: stages whose results the store has already, besides what the start point is made of.
    """

    stages: Callable[[Toy], list[Stage]]
    needs: Callable[[Toy], list[Stage]] = lambda toy: []


def often(toy: Toy) -> Proxy:
    """The toy's proxy with a checkpoint after every step."""
    return dataclasses.replace(toy.proxy, hardware=OFTEN)


def fitted(toy: Toy) -> list[Stage]:
    """What a fit on the toy's pool asks for."""
    return [toy.start, toy.vision, toy.proxy.tokens(), toy.subset()]


OFTEN = dataclasses.replace(HARDWARE, checkpoint_seconds=0)
JOBS = {
    "subset": Job(lambda toy: [toy.subset()]),
    "tokens": Job(lambda toy: [toy.proxy.tokens()], lambda toy: [toy.start]),
    "vision": Job(lambda toy: [toy.vision], lambda toy: [toy.start]),
    "clip": Job(
        lambda toy: [ClipRows(ClipEmbeddings(toy.pool, toy.towers, text_block=11, image_block=1))],
        lambda toy: [toy.towers],
    ),
    "towers": Job(lambda toy: [dataclasses.replace(toy.towers, epochs=2)]),
    "trajectories": Job(
        lambda toy: [dataclasses.replace(toy.trajectories, proxy=often(toy))], fitted
    ),
    "groups": Job(lambda toy: [toy.clusters], lambda toy: [*fitted(toy), toy.trajectories]),
    "activations": Job(
        lambda toy: [
            Spherical(Activations(toy.proxy, 0, (0, 1), batch_tokens=512, mark_rows=7), k=5)
        ],
        fitted,
    ),
    "answers": Job(
        lambda toy: [Answers(toy.proxy, ScorerSettings(batch_tokens=200, shard_rows=5))],
        lambda toy: [*fitted(toy), toy.proxy],
    ),
    "target": Job(lambda toy: [dataclasses.replace(toy.target(), hardware=OFTEN)], fitted),
    "score": Job(
        lambda toy: [Score(Asked(str(toy.folder)), toy.target(), Generation(precision="float32"))],
        lambda toy: [*fitted(toy), toy.target()],
    ),
}


def prepare(job: Job, toy: Toy, root: Path) -> None:
    """A store with links to the results that a job needs, and to all that these are made from."""
    root.mkdir(parents=True)
    kinds = set()
    for stage in job.needs(toy):
        folder = toy.store.get(stage)
        kinds |= {folder.parent.name}
        kinds |= {
            result.kind for result in ResultIndex(toy.store).made_from([folder.name]).values()
        }
    computed = {stage.kind for stage in job.stages(toy)}
    for kind in kinds - computed:
        (root / kind).symlink_to(Path(toy.store.root) / kind)


def run(job: Job, toy: Toy, root: Path) -> dict[str, bytes]:
    """Ask for the stages of a job, and return the files of all results that are not links."""
    for stage in job.stages(toy):
        Store(str(root)).get(stage)
    return results(root)


def results(root: Path) -> dict[str, bytes]:
    """Every file of the results in a store, without records of time, and their inputs.

    Also the names of other folders of the store and of their files, since none may be left.
    """
    files = {}
    for path in sorted(root.rglob("*")):
        kind, key = [*path.relative_to(root).parts, ""][:2]
        if path.is_dir() or path.is_symlink() or kind == LINKS or key.endswith(".lock"):
            continue
        content = path.read_bytes()
        if path.name == "meta.json":
            content = json.dumps(sorted(json.loads(content)["inputs"])).encode()
        elif path.name == "scan_seconds.json":
            content = b""
        content = re.sub(rb'"seconds": [\d.]+', b"", content)
        # Commands and registries for trainers name the folder that the disk was in when it failed.
        stores = re.escape(str(root.parent).encode()) + rb"/\w+"
        files[str(path.relative_to(root))] = re.sub(stores, b"", content)
    return files


def record(job: Job, toy: Toy, root: Path) -> tuple[list[Moment], dict[str, bytes]]:
    """Run a job; the moments at which the power may fail, and the results without a failure."""
    prepare(job, toy, root)
    with Recording(root) as recording:
        expected = run(job, toy, root)
    return recording.moments, expected
