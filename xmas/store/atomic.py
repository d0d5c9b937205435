"""Files and folders that are complete or absent, even if a process dies or the power is cut."""

import fnmatch
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from xmas.store.durable import sync, sync_folder
from xmas.store.full_disk import full_disk

_PATTERNS = (  # of files in a draft; of a complete one they are no part
    *("attempts.json", "seconds.json", "stage.json", "error.txt"),
    *("*.ckpt", ".*.partial", ".*.former", ".*.damaged"),
)
_OF_ATTEMPTS = re.compile("|".join(map(fnmatch.translate, _PATTERNS)))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a file or folder next to `path`, sync it, then rename it to `path`.

    What is next to it is removed if `write` fails. Raises OSError: the disk is full; names `path`.
    """
    partial = partial_of(path)
    _remove(partial)
    try:
        write(partial)
        sync(partial)
    except BaseException as error:
        full = full_disk(error, partial) if isinstance(error, Exception) else None
        _remove(partial)
        if full is not None:
            raise OSError(full.errno, full.strerror, str(path)) from error
        raise
    put_in_place(partial, path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put_in_place(partial: Path, path: Path) -> None:
    """Rename a complete, synced file or folder to `path`, replacing one that is there.

    A folder cannot replace another one in one step: the former is moved aside until it can, and
    removed when the rename is on the disk.
    """
    former, is_folder = former_of(path), partial.is_dir()
    if is_folder and path.exists():
        if former.exists():
            shutil.rmtree(former)
        path.rename(former)
    partial.replace(path)
    sync_folder(path.parent)
    if is_folder and former.exists():
        shutil.rmtree(former)


def complete(draft: Path, whole: str, text: str) -> None:
    """Write the file that says that a draft is complete, after all else is on the disk.

    Args:
        whole: the file's name.
        text: its content.
    """
    sync(draft)
    write_atomically(draft / whole, lambda path: path.write_text(text, encoding="utf-8"))


def publish(draft: Path, path: Path) -> None:
    """Rename a complete draft to `path`, without what only further attempts would need."""
    for leftover in of_attempts(draft):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    sync_folder(draft)
    put_in_place(draft, path)


def of_attempts(draft: Path) -> list[Path]:
    """The files and folders of a draft that are no part of the result: checkpoints, records."""
    return [draft / name for name in sorted(os.listdir(draft)) if _OF_ATTEMPTS.fullmatch(name)]


def restore(draft: Path, path: Path, *, whole: str) -> None:
    """Finish what a process that died between `complete` and the end of `publish` has begun.

    `whole`: the file that is written last, so that a folder which has it is complete.
    """
    former = former_of(path)
    if (draft / whole).exists():
        publish(draft, path)
    elif former.exists() and not path.exists():
        former.rename(path)
        sync_folder(path.parent)
    if former.exists():
        shutil.rmtree(former)


def discard(folder: Path) -> None:
    """Remove a draft or result, renamed first: it is whole or absent, also if this is interrupted.

    Raises FileNotFoundError: another process has removed it.
    """
    aside = removed_of(folder.with_name(folder.name.lstrip(".")))
    if aside.exists():
        shutil.rmtree(aside)
    folder.rename(aside)
    sync_folder(aside.parent)
    shutil.rmtree(aside)


def partial_of(path: Path) -> Path:
    """Where `path` is while it is being written."""
    return path.with_name(f".{path.name}.partial")


def former_of(path: Path) -> Path:
    """Where the folder that was at `path` is while another one replaces it."""
    return path.with_name(f".{path.name}.former")


def removed_of(path: Path) -> Path:
    """Where the folder that was at `path` is while it is being removed."""
    return path.with_name(f".{path.name}.removed")


def damaged_of(path: Path) -> Path:
    """Where what was at `path` is moved when it cannot be read."""
    return path.with_name(f".{path.name.lstrip('.')}.damaged")
