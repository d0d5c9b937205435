"""What the files of a result must be: sizes and hashes in `meta.json`, checked where it is used.

A flipped byte in an array gives another subset and no error, so nothing is read from a result
before its files have the size and, once in a process, the sha256 that they had when it was
finished. A wrong file is an error that names it; a result is computed anew only on request.
"""

import functools
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xmas.store.atomic import of_attempts
from xmas.store.by_name import LINKS
from xmas.store.stage import parse_meta

log = logging.getLogger(__name__)

META = "meta.json"
LIST = "files.json"  # lists the files in the folders of a result that has more than `FEW`
FEW = 1000  # of 130 bytes each in `meta.json`, which tables and reports read of every result
LARGE = 16_000_000_000  # bytes, about eight seconds of hashing; above, only `goal=verify` hashes
KEY = re.compile(r"[0-9a-f]{12}")  # how a result's folder is named
_KEYED = re.compile(r"/[0-9a-f]{12}/")
_SEAL = re.compile(r',\n  "sha256": "([0-9a-f]{64})"\n}\s*$')

Files = dict[str, dict[str, Any]]  # by path in the result's folder: `bytes` and `sha256`

_hashed: set[tuple[str, int, int]] = set()  # path, size and time of change of files found right


class DamagedResultError(ValueError):
    """A file of a result is not what was written; the message names it and says what to do."""


def record_files(draft: Path) -> Files:
    """Size and sha256 of every file of a result in its draft, for its `meta.json`.

    In this process they need not be hashed again when the result is used. Of more than `FEW` files
    those in its folders are listed in `files.json`, which is listed here: a pool of 27,000 pictures
    would make a `meta.json` of 3 MB.
    """
    (draft / LIST).unlink(missing_ok=True)  # of an earlier attempt
    leftovers = {path.name for path in of_attempts(draft)}
    names = [name for name in file_names(draft) if name.partition("/")[0] not in leftovers]
    result = draft.with_name(draft.name[1:])
    files = {name: _record(draft / name, result / name) for name in sorted(names)}
    if len(files) <= FEW:
        return files
    inside = {name: entry for name, entry in files.items() if "/" in name}
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in inside.items()]
    (draft / LIST).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    top = {name: entry for name, entry in files.items() if name not in inside}
    return top | {LIST: _record(draft / LIST, result / LIST)}


def file_names(folder: Path) -> Iterator[str]:
    """The files in a folder as paths relative to it, without the two that list them."""
    for parent, _, names in os.walk(folder):
        inside = os.path.relpath(parent, folder)
        for name in names:
            path = name if inside == "." else f"{inside}/{name}"
            if path not in (META, LIST):
                yield path


def _record(path: Path, published: Path) -> dict[str, Any]:
    status = path.stat()
    digest = _sha256(path)
    _hashed.add((str(published), status.st_size, status.st_mtime_ns))
    return {"bytes": status.st_size, "sha256": digest}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(record: dict[str, Any]) -> str:
    """The text of a `meta.json`; its last entry is the sha256 of all that precedes it."""
    text = json.dumps({name: entry for name, entry in record.items() if name != "sha256"}, indent=2)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{text[:-2]},\n  "sha256": "{digest}"\n}}'


def meta_of(folder: Path) -> dict[str, Any]:
    """The `meta.json` of a finished result of any version.

    Raises DamagedResultError: it is missing, or is not what was written.
    """
    path = folder / META
    try:
        text = path.read_text(encoding="utf-8")
        meta = parse_meta(text)
        if not isinstance(meta, dict):
            raise ValueError("no JSON object")
        _check_seal(text, is_sealed="files" in meta)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise damaged(path, "is missing") from error
    except ValueError as error:  # neither UTF-8 nor JSON, no object, another sha256
        raise damaged(path, f"is not what was written ({error})") from error
    return meta


def _check_seal(text: str, *, is_sealed: bool) -> None:
    seal = _SEAL.search(text)
    if seal is None:
        if is_sealed:
            raise ValueError("its last entry is not its sha256")
        return
    digest = hashlib.sha256(f"{text[: seal.start()]}\n}}".encode()).hexdigest()
    if digest != seal[1]:
        raise ValueError(f"its sha256 is {digest[:12]}…, its last entry says {seal[1][:12]}…")


def files_of(folder: Path) -> Files | None:
    """What `meta.json` says of the files of a finished result; None: an older version made it.

    Raises DamagedResultError: `meta.json` is missing, or is not what was written.
    """
    try:
        status = (folder / META).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise damaged(folder / META, "is missing") from error
    return _files_of(folder, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _files_of(folder: Path, size: int, modified: int) -> Files | None:
    meta = meta_of(folder)
    if meta.get("key", folder.name) != folder.name:
        raise damaged(folder / META, f"is of {meta.get('kind')} {meta.get('key')}")
    return meta.get("files")


def finished_folders(root: Path, kind: str = "*") -> list[Path]:
    """The folders of all finished results of a kind, or of all kinds, sorted.

    They are known by their names, so that a lost `meta.json` is an error and not a lost row.
    """
    folders = (folder for folder in root.glob(f"{kind}/*") if KEY.fullmatch(folder.name))
    return sorted(folder for folder in folders if folder.parent.name != LINKS)


def check(folder: Path, name: str | None = None) -> None:
    """Check the files of a finished result, or one of them, before anything is read from it.

    Sizes every time, hashes the first time in a process. What `files.json` lists, such as the
    pictures of a pool, is checked file by file where it is read: see `checked_content`.

    Raises DamagedResultError: a file is missing or is not what was written; names it.
    """
    files = files_of(folder)
    if files is None:
        _log_unrecorded(str(folder))
        return
    root = str(folder)
    for listed, entry in files.items() if name is None else ((name, files.get(name)),):
        if entry is not None and not _was_checked(f"{root}/{listed}", entry):
            check_file(folder / listed, entry)


def _was_checked(path: str, entry: dict[str, Any]) -> bool:
    """Whether a file is as an earlier check in this process found it right."""
    try:
        status = os.stat(path)
    except OSError:
        return False  # `check_file` says why
    is_same = (path, status.st_size, status.st_mtime_ns) in _hashed
    return is_same and status.st_size == entry["bytes"]


@functools.cache
def _log_unrecorded(folder: str) -> None:
    log.debug("%s: made by an older version, which recorded no hashes; not checked", folder)


def check_file(path: Path, entry: dict[str, Any], *, again: bool = False) -> None:
    """Check the size of a file, and its hash the first time in a process.

    `again`: hash it also if it was hashed already, or is larger than `LARGE`.
    Raises DamagedResultError: it is missing or is not what was written.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise damaged(path, "is missing") from error
    if status.st_size != entry["bytes"]:
        raise damaged(path, f"has {status.st_size} bytes, when written it had {entry['bytes']}")
    state = (str(path), status.st_size, status.st_mtime_ns)
    if not again and (state in _hashed or status.st_size > LARGE):
        return
    _compare(path, _sha256(path), entry)
    _hashed.add(state)


def checked_content(path: Path) -> bytes | None:
    """The content of a file that `files.json` of its result lists; None: no such file.

    Raises DamagedResultError: it is missing or is not what was written.
    """
    if not _KEYED.search(str(path)):
        return None  # as files of the user's own
    folder = _result_of(path)
    files = None if folder is None else listed_files(folder)
    if folder is None or files is None:
        return None
    entry = files.get(path.relative_to(folder).as_posix())
    if entry is None:
        return None
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise damaged(path, "is missing") from error
    if len(content) != entry["bytes"]:
        raise damaged(path, f"has {len(content)} bytes, when written it had {entry['bytes']}")
    _compare(path, hashlib.sha256(content).hexdigest(), entry)
    return content


def _result_of(path: Path) -> Path | None:
    """The folder of the finished result that a file is in."""
    keyed = (parent for parent in path.parents if KEY.fullmatch(parent.name))
    return next((folder for folder in keyed if (folder / META).exists()), None)


def listed_files(folder: Path) -> Files | None:
    """The record of all files of a finished result with many; None of one with few.

    Raises DamagedResultError: the record is not what was written.
    """
    entry = (files_of(folder) or {}).get(LIST)
    return None if entry is None else _listed_files(folder / LIST, entry["bytes"], entry["sha256"])


@functools.lru_cache(maxsize=16)
def _listed_files(path: Path, size: int, sha256: str) -> Files:
    check_file(path, {"bytes": size, "sha256": sha256})
    return json.loads(path.read_text(encoding="utf-8"))


def _compare(path: Path, digest: str, entry: dict[str, Any]) -> None:
    if digest != entry["sha256"]:
        former = entry["sha256"][:12]
        raise damaged(path, f"has sha256 {digest[:12]}…, when written it had {former}…")


def damaged(path: Path, what: str) -> DamagedResultError:
    """The error of a wrong file of a result; `what` is wrong with it."""
    folder = next((parent for parent in path.parents if KEY.fullmatch(parent.name)), path.parent)
    kind = folder.parent.name
    return DamagedResultError(
        f"{path} {what}: the file was changed or lost after the {kind} was finished. Put a copy "
        f"of it back, or compute it anew with force={kind}; goal=verify checks the whole store"
    )
