"""The model that answers: a target loaded, merged and cast once for all scores of a suite.

Loading LLaVA-1.5-7B and merging its adapter takes a minute on a CPU, and a suite has ten scores.
One model is kept at a time, and only inside `shared_by_scores`.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmas.models.vlm import LoadedModel
from xmas.store import Store, key
from xmas.target.target import Target

if TYPE_CHECKING:
    import torch

FileStates = tuple[tuple[str, int, int, int], ...]


@dataclasses.dataclass
class _Slot:
    """Room for one loaded target; `request` and `files` say what the model was loaded for."""

    request: tuple[Any, ...] | None = None
    files: FileStates = ()
    loaded: LoadedModel | None = None

    def clear(self) -> None:
        """Drop the model; on a GPU its memory is free for other processes too."""
        import torch

        was_loaded = self.loaded is not None
        self.request, self.files, self.loaded = None, (), None
        if was_loaded and torch.cuda.is_available():
            torch.cuda.empty_cache()


_SLOT: ContextVar[_Slot | None] = ContextVar("loaded target", default=None)


@contextlib.contextmanager
def shared_by_scores() -> Iterator[None]:
    """Scores that are computed inside share the model of a target; it is freed at the end.

    In this thread only. Inside another such block it changes nothing: the outer one frees.

    >>> with shared_by_scores():
    ...     pass  # for benchmark in suite.values(): store.get(Score(benchmark, target))
    """
    if _SLOT.get() is not None:
        yield
        return
    slot = _Slot()
    token = _SLOT.set(slot)
    try:
        yield
    finally:
        _SLOT.reset(token)
        slot.clear()


def load_target(
    target: Target, store: Store, dtype: "torch.dtype", device: "torch.device | str"
) -> LoadedModel:
    """The model of a target with parameters of `dtype` on `device`.

    Inside `shared_by_scores` it may be one that an earlier score has loaded: of the same target,
    dtype and device, if no file of the target or of its start has changed since.
    """
    slot = _SLOT.get()
    if slot is None:
        return target.load(store, dtype, device)
    request = (str(Path(store.root).resolve()), key(target), dtype, str(device))
    if slot.request != request:
        slot.clear()  # before the next target is fitted, which needs the memory
    files = _states([store.get(target.start), store.get(target)])
    if slot.loaded is None or slot.files != files:
        slot.clear()
        slot.loaded = target.load(store, dtype, device)
        slot.request, slot.files = request, files
    return slot.loaded


def _states(folders: list[Path]) -> FileStates:
    """Path, size, time of change and inode of every file of results."""
    states = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            status = path.stat()
            states.append((str(path), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(states)
