"""What a pool's path names: an annotation file, a table of shards, or a dataset."""

from pathlib import Path

from xmas.data.datasets_by_name import dataset_of, is_dataset
from xmas.data.tables.shards import fingerprint, is_sharded, state_of
from xmas.store import sha256_of


def is_there(path: Path) -> bool:
    """Whether there is something to open."""
    return path.exists() or is_sharded(path) or is_dataset(str(path))


def has_own_images(path: Path) -> bool:
    """Whether images may be in the pool's own files, so that no folder need be given."""
    return is_sharded(path) or is_dataset(str(path))


def identity_of(path: Path, split: str | None) -> tuple[str, str]:
    """(kind, hash) of what is there: `sha256` of a file, `shards` or `dataset` of a table.

    Raises:
        OSError: nothing is there.
        PoolError: see `shards.files_of` and `dataset_of`.
    """
    if is_sharded(path):
        return "shards", fingerprint(path, split)
    if is_dataset(str(path)):
        return "dataset", dataset_of(str(path), split)._fingerprint
    return "sha256", sha256_of(str(path))


def state(path: Path, split: str | None) -> tuple[int, int]:
    """Bytes and time of change, in ns; a dataset's name changes with it."""
    if is_sharded(path):
        return state_of(path, split)
    if is_dataset(str(path)):
        return 0, 0
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
