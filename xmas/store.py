"""Stages and the store that keeps their results.

A stage is a frozen dataclass whose fields are plain data or other stages, so it contains its whole
history; the hash of that history names the folder of its result. Building a stage costs nothing and
touches no disk: work happens in `Store.get`, once, and a result that is there is never made again.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from xmas import ranks
from xmas.former_names import FORMER_NAMES
from xmas.lock import alone

log = logging.getLogger(__name__)

_AGREED: set[str] = set()  # results that all ranks of this run know to be there

RECORDED_PACKAGES = (
    "numpy torch transformers tokenizers peft lightning faiss-cpu faiss-gpu pillow xmas".split()
)


def volatile(default: Any = dataclasses.MISSING, **options: Any) -> Any:
    """A dataclass field outside a stage's identity: paths, devices, workers, callbacks."""
    return dataclasses.field(default=default, metadata={"identity": "none"}, **options)


def content(default: Any = dataclasses.MISSING, **options: Any) -> Any:
    """A dataclass field that holds a file: its identity is the content's sha256, not the path."""
    return dataclasses.field(default=default, metadata={"identity": "content"}, **options)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A step whose result is a folder.

    Subclasses set `kind`, the name of the store's folder, and raise `version` whenever `compute`
    gives other results than before for the same fields.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    together: ClassVar[bool] = False  # where several ranks run, all call `compute`, else rank 0

    def compute(self, store: "Store", out: Path) -> None:
        """Write the result into `out`, which may hold what an interrupted attempt left there."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is computed")


@dataclasses.dataclass(frozen=True)
class Made:
    """A file or folder inside the result of a stage, named where a path could stand."""

    stage: Stage
    name: str


@runtime_checkable
class Journal(Protocol):
    """Where results are written down once more, for people to look at; see `xmas.logger`.

    It is no part of any stage: no key and no result depends on it.
    """

    def follow(self, stage: Stage) -> Any:
        """Lightning's logger for the fit of a stage that is being computed."""
        ...

    def enter(self, folder: Path) -> None:
        """Write down a finished result, unless it stands there already."""
        ...


@functools.lru_cache(maxsize=256)
def _digest(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    log.info("sha256 of %s: %s", path, digest)
    return digest


def sha256_of(path: str | Path) -> str:
    """The sha256 of a file, read once in a process as long as size and time stay.

    Of a folder: that of the names and hashes of the files in it. Raises FileNotFoundError: there
    is nothing at `path`.
    """
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        listed = "".join(f"{file.relative_to(path)} {sha256_of(file)}\n" for file in files)
        return hashlib.sha256(listed.encode()).hexdigest()
    found = os.stat(path)
    return _digest(str(path), found.st_size, found.st_mtime_ns)


_STABLE_NAMES = {former: name for name, former in FORMER_NAMES.items()}
_TYPE = re.compile(r'"type": "([\w.]+)"')


def type_name(cls: type) -> str:
    """The name of a type in identities: the class's own in this package, dotted elsewhere.

    In the package it does not depend on the module, so a class can move without a loss of results.
    """
    if cls.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def describe(value: Any) -> Any:
    """The identity of a stage as plain data: type, version and every field that is not volatile.

    Raises TypeError: a field is neither plain data nor a dataclass.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = getattr(value, "identity", None)
        if own is not None:
            return own()
        described: dict[str, Any] = {"type": type_name(type(value))}
        if isinstance(value, Stage):
            described["version"] = value.version
        for field in dataclasses.fields(value):
            rule = field.metadata.get("identity", "value")
            held = getattr(value, field.name)
            if rule == "content" and isinstance(held, str):
                described[field.name] = {"sha256": sha256_of(held)}
            elif rule != "none":
                described[field.name] = describe(held)
        return described
    if isinstance(value, dict):
        return {str(name): describe(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [describe(held) for held in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return float(value)  # fraction=1 and fraction=1.0 are one result
    raise TypeError(f"{value!r} ({type(value).__name__}) is neither plain data nor a dataclass")


def key(stage: Stage) -> str:
    """Twelve hex digits that name the result of `stage`."""
    return digest(describe(stage))


def digest(described: Any) -> str:
    """Twelve hex digits of an identity as plain data; types count under their former names."""
    plain = json.dumps(described, sort_keys=True)
    plain = _TYPE.sub(lambda found: _renamed(found, FORMER_NAMES), plain)
    return hashlib.sha256(plain.encode()).hexdigest()[:12]


def read_meta(path: Path) -> dict[str, Any]:
    """The `meta.json` of a result, whenever it was made, with the type names of today."""
    text = path.read_text(encoding="utf-8")
    return json.loads(_TYPE.sub(lambda found: _renamed(found, _STABLE_NAMES), text))


def _renamed(found: re.Match[str], names: dict[str, str]) -> str:
    return f'"type": "{names.get(found[1], found[1])}"'


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that can change a result."""
    found = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@functools.cache
def commit() -> str | None:
    """The commit of the checkout this package runs from, `+` behind it where files differ."""
    here = Path(__file__).parent
    git = functools.partial(
        subprocess.run, cwd=here, capture_output=True, text=True, check=False, timeout=10
    )
    if (
        shutil.which("git") is None
        or git(["git", "ls-files", "--error-unmatch", __file__]).returncode
    ):
        return None
    head = git(["git", "rev-parse", "HEAD"]).stdout.strip()
    changed = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    return head + ("+" if changed else "")


def worked_on(stage: Stage) -> dict[str, Any]:
    """`device` and `devices`: what a stage is computed on and on how many at once.

    Under torchrun all that were started, since they wait for a stage that rank 0 makes alone; else
    as its `hardware` says, or that of a stage it measures; else one. The device is the first GPU of
    a process that has torch loaded, or the CPU.
    """
    parts = [stage, *(getattr(stage, field.name) for field in dataclasses.fields(stage))]
    said = [part.hardware for part in parts if hasattr(part, "hardware")]
    torch = sys.modules.get("torch")  # who did not load it did not compute on a GPU
    on_cpu = bool(said) and said[0].accelerator == "cpu"
    if torch is None or on_cpu or not torch.cuda.is_available():
        name = f"CPU, {os.cpu_count()} cores"
    else:
        name = torch.cuda.get_device_name(0)
    held = int(os.environ["WORLD_SIZE"]) if ranks.launched() else said[0].world if said else 1
    return {"device": name, "devices": held}


@functools.cache
def _say_reused(kind: str, place: str) -> None:
    """One line for a result, however often a process asks for it."""
    log.info("%-14s %s reused    %s", kind, Path(place).name, place)


def _say(stage: Stage, what: str) -> None:
    log.info("%-14s %s %s", stage.kind, key(stage), what)


@dataclasses.dataclass(frozen=True)
class Store:
    """Results under `root/<kind>/<key>/`; unfinished ones in hidden draft folders beside them."""

    root: str = "store"
    locks: str = "auto"  # lease: where hosts do not see each other's flock
    journal: Journal | None = dataclasses.field(default=None, compare=False, repr=False)

    def path(self, stage: Stage) -> Path:
        """The folder where the result of `stage` is, or will be."""
        return Path(self.root) / stage.kind / key(stage)

    def get(self, stage: Stage) -> Path:
        """Return the folder with the result of `stage`, computing it if it is not there.

        Processes that ask at once compute once. Ranks that torchrun has started all ask for the
        same: rank 0 computes, and calls the others where a stage is computed together. A failed or
        killed attempt leaves its draft, and the next call goes on from there. Raises whatever
        `stage.compute` raises; the traceback then stands in `error.txt` of the draft as well.
        """
        done = self.path(stage)
        if not ranks.launched():
            return self._made(stage)
        if str(done) in _AGREED and done.exists():
            return done
        if not ranks.leads():
            self._follow(stage)
        elif ranks.shared():
            self._lead(stage)
        else:
            return self._made(stage)
        ranks.barrier()
        _AGREED.add(str(done))
        return done

    def _lead(self, stage: Stage) -> None:
        try:
            self._made(stage)
        except BaseException as error:
            ranks.tell(("failed", repr(error)))
            raise
        ranks.tell(("there", None))

    def _made(self, stage: Stage) -> Path:
        done = self.path(stage)
        if done.exists():
            _say_reused(stage.kind, str(done))
            return done
        done.parent.mkdir(parents=True, exist_ok=True)
        waiting = functools.partial(_say, stage, "waits for another process")
        with alone(done.with_name(f".{done.name}"), kind=self.locks, waiting=waiting):
            if done.exists():
                _say_reused(stage.kind, str(done))
                return done
            draft = self._draft(stage)
            resumed = draft.exists()
            draft.mkdir(exist_ok=True)
            _say(stage, "resumed" if resumed else "computing")
            with self._recorded(stage, draft):
                self._computed(stage, draft)
            draft.rename(done)
        _say(stage, f"done      {done}")
        if self.journal is not None:
            self.journal.enter(done)
        return done

    def follow(self, stage: Stage) -> Any:
        """Lightning's logger for the fit of `stage`; None without a journal."""
        return None if self.journal is None else self.journal.follow(stage)

    def _computed(self, stage: Stage, draft: Path) -> None:
        """Compute; rank 0 calls the others if they are needed."""
        if not ranks.launched():
            return stage.compute(self, draft)
        if stage.together:  # only where all ask for it, the others have this stage in hand
            ranks.tell(("compute", None if ranks.shared() else stage))
        with ranks.sharing(stage.together):
            stage.compute(self, draft)
            ranks.barrier()  # nobody writes into the draft any more
        return None

    def _follow(self, stage: Stage) -> None:
        """Take part in what rank 0 calls for until the result of `stage` is there.

        Rank 0 alone takes the lock and renames. What it computes alone may ask for stages that are
        computed together; those come with the call.
        """
        while (told := ranks.hear())[0] == "compute":
            called = told[1] or stage
            called.compute(self, self._draft(called))
            ranks.barrier()
        if told[0] == "failed":
            raise RuntimeError(f"rank 0 could not make {stage.kind} {key(stage)}: {told[1]}")

    def _draft(self, stage: Stage) -> Path:
        return self.path(stage).with_name(f".{key(stage)}")

    def find(self, place: "str | Made") -> Path:
        """The path of a file or folder: itself, or inside a stage's result, computed if need be."""
        if isinstance(place, Made):
            return self.get(place.stage) / place.name
        return Path(place).expanduser()

    def results(self, kind: str) -> list[tuple[Path, dict[str, Any]]]:
        """Every finished result of a kind with its `meta.json`, in the order of their folders."""
        found = sorted((Path(self.root) / kind).glob("[!.]*/meta.json"))
        return [(meta.parent, read_meta(meta)) for meta in found]

    @contextlib.contextmanager
    def _recorded(self, stage: Stage, draft: Path) -> Iterator[None]:
        """Write `meta.json` when the work inside ends well, `error.txt` when it does not.

        Seconds are those of this stage alone, over all attempts: what it asks of other stages is
        in their own records.
        """
        spent = draft / "seconds.json"
        before = json.loads(spent.read_text()) if spent.exists() else 0.0
        outer = _Clock.running
        clock = _Clock.running = _Clock(outer)
        try:
            yield
        except BaseException:
            (draft / "error.txt").write_text(traceback.format_exc())
            spent.write_text(json.dumps(before + clock.own()))
            raise
        finally:
            _Clock.running = outer
            if outer is not None:
                outer.elsewhere += clock.total()
        (draft / "error.txt").unlink(missing_ok=True)
        spent.unlink(missing_ok=True)
        record = {
            "kind": stage.kind,
            "key": key(stage),
            "config": describe(stage),
            "seconds": round(before + clock.own(), 3),
            "versions": versions(),
            "commit": commit(),
            "host": platform.node(),
            "cpus": os.cpu_count(),
            **worked_on(stage),
        }
        (draft / "meta.json").write_text(json.dumps(record, indent=2))


class _Clock:
    """Seconds of one stage without those of the stages it asked for."""

    running: ClassVar["_Clock | None"] = None

    def __init__(self, outer: "_Clock | None") -> None:
        self.outer = outer
        self.start = time.monotonic()
        self.elsewhere = 0.0

    def total(self) -> float:
        return time.monotonic() - self.start

    def own(self) -> float:
        return self.total() - self.elsewhere


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a file or folder beside `path`, then rename it: `path` is whole or absent.

    A folder cannot take the place of another one at once: the former is moved aside until it can.
    """
    partial, former = partial_of(path), former_of(path)
    if partial.is_dir():
        shutil.rmtree(partial)
    write(partial)
    if partial.is_dir() and path.exists():
        shutil.rmtree(former, ignore_errors=True)
        path.rename(former)
    partial.replace(path)
    if former.exists():
        shutil.rmtree(former)


def partial_of(path: Path) -> Path:
    """Where `path` is while it is being written."""
    return path.with_name(f".{path.name}.partial")


def former_of(path: Path) -> Path:
    """Where a folder is that stood at `path`, while another one takes its place."""
    return path.with_name(f".{path.name}.former")
