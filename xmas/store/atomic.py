"""Files and folders that are whole or absent, also when the process dies while it writes them."""

import shutil
from collections.abc import Callable
from pathlib import Path


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
