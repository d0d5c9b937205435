"""A folder that is read-only for the process, as a read-only mount: root's writes fail as well."""

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def make_read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would change the folder raises OSError, and `os.access` says so in advance."""
    root = os.path.abspath(folder)

    def refuse(path: Any) -> None:
        if os.path.abspath(os.fspath(path)).startswith(root):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))

    def guard(module: Any, name: str, *, writes: Callable[..., bool]) -> None:
        whole = getattr(module, name)

        def guarded(path: Any, *given: Any, **options: Any) -> Any:
            if not isinstance(path, int) and writes(*given, **options):
                refuse(path)
                if name in ("rename", "replace", "symlink"):
                    refuse(given[0])
            return whole(path, *given, **options)

        monkeypatch.setattr(module, name, guarded)

    for module in (builtins, io):
        guard(module, "open", writes=lambda mode="r", *_, **__: bool(set(mode) & set("wax+")))
    guard(os, "open", writes=lambda flags, *_, **__: bool(flags & _WRITES))
    for name in ("mkdir", "rename", "replace", "symlink", "unlink", "remove", "rmdir", "utime"):
        guard(os, name, writes=lambda *_, **__: True)
    whole = os.access

    def access(path: Any, mode: int, **options: Any) -> bool:
        inside = os.path.abspath(os.fspath(path)).startswith(root)
        return not (inside and mode & os.W_OK) and whole(path, mode, **options)

    monkeypatch.setattr(os, "access", access)
