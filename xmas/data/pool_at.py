"""A small pool by one path: a file in a folder with its images, or that folder."""

from pathlib import Path

from xmas.data.pool import Pool
from xmas.data.pool_places import is_there
from xmas.data.rows import PoolError
from xmas.data.tables.shards import SUFFIXES

ANNOTATIONS = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst")


def pool_at(path: str, name: str, setting: str, invalid: str = "error") -> Pool:
    """The pool at a path, in any format that a reader knows.

    Args:
        path: an annotation file, whose image names are relative to its folder; a folder with one;
            or what `Pool.path` takes: Parquet or Arrow, a dataset of the hub.
        name: of the pool.
        setting: what gives the path, for messages.
        invalid: what to do about malformed rows, as `Pool.invalid`.

    Raises PoolError: nothing is there, or a folder with no or several annotation files.
    """
    place = Path(path).expanduser()
    if not is_there(place):
        raise PoolError(
            f"{setting}={path}: there is nothing; give a file of conversations, or a folder with "
            "one and its images"
        )
    if place.is_dir() and not any(_has(place, suffix) for suffix in SUFFIXES):
        files = sorted(file for file in place.iterdir() if file.name.endswith(ANNOTATIONS))
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise PoolError(
                f"{setting}={path}: expected one file of conversations "
                f"({', '.join(ANNOTATIONS)}), there are {len(files)}: {names}; give the file itself"
            )
        place = files[0]
    if place.is_file() and place.name.endswith(ANNOTATIONS):
        return Pool(str(place), str(place.parent), name=name, invalid=invalid)
    return Pool(path=str(place), name=name, invalid=invalid)


def _has(folder: Path, suffix: str) -> bool:
    return next(folder.rglob(f"*{suffix}"), None) is not None
