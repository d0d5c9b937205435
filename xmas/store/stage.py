"""Stages and what identifies them.

A stage is a frozen dataclass whose fields are plain data or other stages, so it contains its whole
history; the hash of that history names the folder of its result. Building a stage costs nothing and
touches no disk.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from xmas.store.former_names import FORMER_NAMES

if TYPE_CHECKING:
    from xmas.store.store import Store

log = logging.getLogger(__name__)


def volatile(default: Any = dataclasses.MISSING, **options: Any) -> Any:
    """A dataclass field outside a stage's identity: paths, devices, workers, callbacks."""
    return dataclasses.field(default=default, metadata={"identity": "none"}, **options)


def content(default: Any = dataclasses.MISSING, **options: Any) -> Any:
    """A dataclass field with the path of a file, whose identity is the sha256 of its content."""
    return dataclasses.field(default=default, metadata={"identity": "content"}, **options)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A step whose result is a folder.

    Subclasses set `kind`, the name of the store's folder, and raise `version` whenever `compute`
    gives other results than before for the same fields.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    together: ClassVar[bool] = False  # under torchrun all ranks call `compute`, not rank 0 alone

    def inputs(self) -> "Iterable[Stage]":
        """The stages whose results `compute` asks the store for, in any order, repeats allowed.

        By default the nearest stages in the fields. Override it if `compute` asks for others, or
        not for all of them: estimates follow it. Stages that are known only while `compute` runs,
        as the reviews of answers, are left out.
        """
        return stages_of_fields(self)

    def scope(self) -> contextlib.AbstractContextManager[None]:
        """What is open on every rank while `compute` runs, for what the inputs share in memory."""
        return contextlib.nullcontext()

    def compute(self, store: "Store", out: Path) -> None:
        """Write the result into `out`, which may contain files of an interrupted attempt."""
        raise NotImplementedError(f"{type(self).__name__} has no method compute; define it")


@dataclasses.dataclass(frozen=True)
class Made:
    """A file or folder inside the result of a stage, for fields that take a path."""

    stage: Stage
    name: str


def nearest_stages(value: Any) -> Iterator[Stage]:
    """The nearest stages in a value: itself, or those in its elements or fields.

    A dataclass that is not a stage, such as a selector, may define `inputs()` as well, if it does
    not ask for exactly the stages in its fields.
    """
    if isinstance(value, Stage):
        yield value
    elif isinstance(value, Made):
        yield value.stage
    elif isinstance(value, dict):
        yield from nearest_stages(list(value.values()))
    elif isinstance(value, list | tuple):
        for element in value:
            yield from nearest_stages(element)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        declared = getattr(value, "inputs", None)
        yield from stages_of_fields(value) if declared is None else declared()


def stages_of_fields(value: Any) -> Iterator[Stage]:
    """The nearest stages in the fields of a dataclass."""
    for field in dataclasses.fields(value):
        yield from nearest_stages(getattr(value, field.name))


class ChangedFileError(ValueError):
    """A file that is part of a stage's identity changed while the stage was computed."""


_SLOW = 100_000_000  # bytes of a file whose reading is long enough to be worth a line


_digests: dict[tuple[str, int, int], str] = {}  # by path, size and time of modification


def note_sha256(path: str | Path, status: os.stat_result, digest: str) -> None:
    """Let `sha256_of` know the hash of a file, as long as its status is this one."""
    _digests[str(path), status.st_size, status.st_mtime_ns] = digest


def _digest(path: str, status: os.stat_result) -> str:
    known = _digests.get((path, status.st_size, status.st_mtime_ns))
    if known is not None:
        return known
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    level = logging.INFO if status.st_size > _SLOW else logging.DEBUG
    log.log(level, "sha256 of %s: %s", path, digest)
    note_sha256(path, status, digest)
    return digest


def sha256_of(path: str | Path) -> str:
    """The sha256 of a file; read once a process unless its size or modification time changes.

    Of a folder: the sha256 of the names and hashes of its files. Raises FileNotFoundError: `path`
    does not exist.
    """
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        listing = "".join(f"{file.relative_to(path)} {sha256_of(file)}\n" for file in files)
        digest = hashlib.sha256(listing.encode()).hexdigest()
    else:
        digest = _digest(str(path), status)
    for hashes in _noting:
        hashes.setdefault(str(path), digest)
    return digest


_noting: list[dict[str, str]] = []


@contextlib.contextmanager
def hashed_files() -> Iterator[dict[str, str]]:
    """The files that are hashed in the with block, with the first sha256 of each."""
    hashes: dict[str, str] = {}
    _noting.append(hashes)
    try:
        yield hashes
    finally:
        _noting[:] = [noted for noted in _noting if noted is not hashes]


def check_unchanged(hashes: dict[str, str]) -> None:
    """Raise ChangedFileError if a file no longer has its sha256; names it."""
    for path, digest in hashes.items():
        try:
            now = sha256_of(path)
        except FileNotFoundError:
            raise ChangedFileError(f"{path} was removed") from None
        if now != digest:
            raise ChangedFileError(
                f"{path} was edited: its sha256 was {digest[:12]}… and is {now[:12]}…"
            )


_PLAIN = {str, float, bool, type(None)}
_WHOLE = 2**53  # up to which every whole number is a float
_TYPE = re.compile(r'"type": "[\w.]+"')
_FORMER_TYPES = {
    f'"type": "{name}"': f'"type": "{former}"' for name, former in FORMER_NAMES.items()
}
_STABLE_TYPES = {former: name for name, former in _FORMER_TYPES.items()}


def type_name(cls: type) -> str:
    """The name of a type in identities: the class's own in this package, dotted elsewhere.

    In the package it does not depend on the module, so a class can move without a loss of results.
    """
    if cls.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def describe(value: Any) -> Any:
    """The identity of a stage as plain data: type, version and every field that is not volatile.

    A dataclass may have a method `identity()`, which replaces all of that, or `corrections()`,
    which adds to it what changes the results for some values of the fields only: a correction of
    the code, or a volatile field that is not at its default. A higher `version`, or a field of the
    identity, would rename the unaffected results too.

    Raises TypeError: a field is neither plain data nor a dataclass. Raises ValueError: a whole
    number is no float, as some above 2^53.
    """
    if type(value) in _PLAIN:  # nearly all, without the slower questions
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = getattr(value, "identity", None)
        if own is not None:
            return own()
        corrections = getattr(value, "corrections", dict)()
        return _described_fields(value) | corrections
    if isinstance(value, dict):
        return {str(name): describe(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [describe(element) for element in value]
    if isinstance(value, str | float):
        return value
    if isinstance(value, int):
        return _exact(value)
    raise TypeError(f"{value!r} ({type(value).__name__}) is neither plain data nor a dataclass")


def _exact(value: int, name: str = "") -> float:
    """The float of a whole number: fraction=1 and fraction=1.0 are one result.

    Raises ValueError: it has none, so that two seeds would be one result.
    """
    if abs(value) > _WHOLE and (value.bit_length() > 1000 or float(value) != value):
        text = str(value) if value.bit_length() < 100 else f"a number of {value.bit_length()} bits"
        raise ValueError(
            f"{name}{text} is no exact float: give a whole number of at most 2^53 = {_WHOLE}"
        )
    return float(value)


def _described_fields(value: Any) -> dict[str, Any]:
    identity: dict[str, Any] = {"type": type_name(type(value))}
    if isinstance(value, Stage):
        identity["version"] = value.version
    for name, by_content in _identifying(type(value)):
        content = getattr(value, name)
        if by_content and isinstance(content, str):
            identity[name] = {"sha256": _sha256_of_field(name, content)}
        elif isinstance(content, int) and not isinstance(content, bool):
            identity[name] = _exact(content, f"{name}=")
        else:
            identity[name] = describe(content)
    return identity


@functools.cache
def _identifying(cls: type) -> list[tuple[str, bool]]:
    """The fields of a dataclass that are not volatile, and whether each is known by content."""
    rules = [
        (field.name, field.metadata.get("identity", "value")) for field in dataclasses.fields(cls)
    ]
    return [(name, rule == "content") for name, rule in rules if rule != "none"]


def _sha256_of_field(name: str, path: str) -> str:
    try:
        return sha256_of(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}={path}: there is no such file; correct the path") from None


def key(stage: Stage) -> str:
    """Twelve hex digits that name the result of `stage`."""
    return digest(describe(stage))


def digest(described: Any) -> str:
    """Twelve hex digits of an identity as plain data; types count under their former names."""
    plain = json.dumps(described, sort_keys=True)
    plain = _TYPE.sub(lambda match: _FORMER_TYPES.get(match[0], match[0]), plain)
    return hashlib.sha256(plain.encode()).hexdigest()[:12]


def read_meta(path: Path) -> dict[str, Any]:
    """A described stage in a file of any version, with the type names of today."""
    return parse_meta(path.read_text(encoding="utf-8"))


def parse_meta(text: str) -> dict[str, Any]:
    """The text of a `meta.json` of any version, parsed, with the type names of today."""
    return json.loads(_TYPE.sub(lambda match: _STABLE_TYPES.get(match[0], match[0]), text))
