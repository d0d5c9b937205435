"""Datasets that have a name and no path: those of a program, and those of the hub."""

import contextlib
import functools
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xmas.data.rows import PoolError

_PREFIX = "dataset:"
_HUB = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+)?")  # owner/name, or owner/name/configuration
_of_this_process: dict[str, Any] = {}


def name_of(dataset: Any) -> str:
    """The name by which a pool finds a `datasets.Dataset` in this process: its fingerprint."""
    name = f"{_PREFIX}{dataset._fingerprint}"
    _of_this_process[name] = dataset
    return name


def is_dataset(name: str) -> bool:
    """Whether a name is of a dataset: of a program, or, where no file has it, as on the hub."""
    if name.startswith(_PREFIX):
        return True
    if not _HUB.fullmatch(name):
        return False
    return not Path(name).suffix and not Path(name).exists()


def dataset_of(name: str, split: str | None = None) -> Any:
    """The dataset of a name. Raises PoolError: it cannot be loaded, or another process named it."""
    if not name.startswith(_PREFIX):
        return _of_hub(name, split or "train")
    if name not in _of_this_process:
        raise PoolError(
            f"{name}: this dataset was given by another process; call Pool.from_dataset again, or "
            "save it with `save_to_disk` and give the folder"
        )
    return _of_this_process[name]


@contextlib.contextmanager
def _without_attempts() -> Iterator[None]:
    """Silence the lines of the hub's client on each attempt: an error says how all ended."""
    attempts = logging.getLogger("huggingface_hub.utils._http")
    level = attempts.level
    attempts.setLevel(logging.ERROR)
    try:
        yield
    finally:
        attempts.setLevel(level)


@functools.cache
def _of_hub(name: str, split: str) -> Any:
    """A dataset of the hub, downloaded once into the cache of `datasets`."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise PoolError(
            f"pool.path={name}: no such file or folder; if a dataset of the hub is meant, install "
            "datasets: pip install 'xmas[datasets]'"
        ) from error
    owner, repository, *config = name.split("/")
    try:
        with _without_attempts():
            return datasets.load_dataset(f"{owner}/{repository}", *config, split=split)
    except Exception as error:  # of the hub's client, of fsspec, of builders
        raise PoolError(
            f"pool.path={name}: no such file or folder, and no dataset of the hub that can be "
            f"loaded ({error}); give a path, or OWNER/NAME or OWNER/NAME/CONFIG with pool.split"
        ) from error
