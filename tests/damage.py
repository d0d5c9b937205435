"""Damage files of a store in every way, and see what uses of the results say.

`flip`, `cut`, `empty` and `remove` damage a file; `trials` damages each file of each result in turn
and has it used by a function that is passed. `experiments/reliability/corruption.py` does this to
results of every kind, `test_integrity.py` to some.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from xmas.store import Stage, Store
from xmas.store.integrity import finished_folders


def flip(path: Path) -> None:
    """Flip the lowest bit of the byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Cut off the second half."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


DAMAGES: dict[str, Callable[[Path], None]] = {
    damage.__name__: damage for damage in (flip, cut, empty, remove)
}


@dataclasses.dataclass(frozen=True)
class User(Stage):
    """Asks for a result, as every stage that is made from it."""

    kind: ClassVar[str] = "user"

    needed: Stage

    def compute(self, store: Store, out: Path) -> None:
        store.get(self.needed)


@dataclasses.dataclass(frozen=True)
class Trial:
    """A damaged file and what came of its use: `named`, `unnamed: MESSAGE`, `silent` or `same`."""

    kind: str
    file: str
    damage: str
    outcome: str


@contextlib.contextmanager
def damaged(path: Path, damage: Callable[[Path], None]) -> Iterator[None]:
    """The file is damaged inside, and afterwards what it was."""
    content, status = path.read_bytes(), path.stat()
    damage(path)
    try:
        yield
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def trials(
    folders: Iterable[Path],
    use: Callable[[Path], object],
    *,
    damages: Iterable[str] = tuple(DAMAGES),
    expected: object = None,
) -> Iterator[Trial]:
    """Damage every file of the results in these folders, one at a time, and use the result.

    `same`: the use gave what it is expected to give without damage.
    """
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            for name in damages:
                if not path.stat().st_size and name != "remove":
                    continue  # nothing to flip or cut
                with damaged(path, DAMAGES[name]):
                    outcome = _outcome(path, lambda folder=folder: use(folder), expected)
                yield Trial(folder.parent.name, path.relative_to(folder).as_posix(), name, outcome)


def _outcome(path: Path, use: Callable[[], object], expected: object) -> str:
    try:
        content = use()
    except Exception as error:  # of any type: its message is compared
        named = str(path) in str(error)
        return "named" if named else f"unnamed: {type(error).__name__}: {error}"
    return "same" if expected is not None and content == expected else "silent"


def results(store: Store) -> list[Path]:
    return finished_folders(Path(store.root))
