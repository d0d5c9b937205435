"""Files and folders that are complete or absent, even if a process dies while writing them."""

import shutil
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a file or folder next to `path`, then rename it to `path`."""
    partial = partial_of(path)
    if partial.is_dir():
        shutil.rmtree(partial)
    write(partial)
    put_in_place(partial, path)


def put_in_place(partial: Path, path: Path) -> None:
    """Rename a complete file or folder to `path`, replacing one that is there.

    A folder cannot replace another one in one step: the former is moved aside until it can.
    """
    former = former_of(path)
    if partial.is_dir() and path.exists():
        if former.exists():
            shutil.rmtree(former)
        path.rename(former)
    partial.replace(path)
    if former.exists():
        shutil.rmtree(former)


def restore(partial: Path, path: Path, *, whole: str) -> None:
    """Finish what a process that died in `put_in_place` has begun.

    `whole`: the file that is written last, so that a folder which has it is complete.
    """
    former = former_of(path)
    if former.exists() and not path.exists():
        (partial if (partial / whole).exists() else former).rename(path)
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
