"""Parquet and Arrow files of one table: which they are, and their identity by their footers."""

import glob
import hashlib
import json
from pathlib import Path

from xmas.data.rows import PoolError

SUFFIXES = (".parquet", ".arrow")
_ENDS = 1 << 16  # bytes of an Arrow file's two ends that are part of its identity
SPLITS = ("train", "validation", "test")


def is_sharded(path: Path) -> bool:
    """Whether a path is a table: a Parquet or Arrow file, a glob of such, or a folder."""
    return path.suffix in SUFFIXES or path.is_dir() or (_is_glob(path) and bool(_globbed(path)))


def files_of(path: Path, split: str | None = None) -> list[Path]:
    """The files of a table, in order.

    Args:
        path: a Parquet or Arrow file, a glob of such, a folder with some at any depth, or one that
            `datasets` saved.
        split: of a folder with several, by the names of files or folders; None: the only one, or
            "train".

    Raises PoolError: there are none; the message names what there is.
    """
    if path.is_file():
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
        chosen = split or ("train" if "train" in splits else splits[0])
        if chosen not in splits:
            raise PoolError(f"{path}: has no split {chosen!r}; pool.split may be {splits}")
        path = path / chosen
    if (state := path / "state.json").is_file():
        return [path / file["filename"] for file in json.loads(state.read_text())["_data_files"]]
    files = _globbed(path) if _is_glob(path) else _below(path)
    if not files:
        raise PoolError(
            f"{path}: no {' or '.join(SUFFIXES)} files; give a folder or a glob of them"
        )
    names = {file: {file.parent.name, file.name.split("-")[0].split(".")[0]} for file in files}
    of_split = {name: [file for file in files if name in names[file]] for name in SPLITS}
    chosen = split or next((name for name in SPLITS if of_split[name]), None)
    if chosen is None:
        return files
    if not (chosen_files := of_split.get(chosen, [])):
        there = [name for name in SPLITS if of_split[name]]
        raise PoolError(f"{path}: has no files of split {chosen!r}; there are {there or files[:3]}")
    return chosen_files


def fingerprint(path: Path, split: str | None = None) -> str:
    """The identity of a table without reading it: names, sizes and footers of its files.

    A Parquet footer has the number of rows and the statistics of all columns; of an Arrow file the
    first and last 64 KiB count. Raises PoolError: a Parquet file has no whole footer.
    """
    digest = hashlib.sha256()
    files = files_of(path, split)
    for file in files:
        name = file.name if file == path else str(file.relative_to(folder_of(path)))
        digest.update(f"{name}\t{file.stat().st_size}\n".encode())
        digest.update(_footer(file))
    return digest.hexdigest()


def state_of(path: Path, split: str | None = None) -> tuple[int, int]:
    """Bytes of a table's files, and when one of them was last changed, in ns."""
    stats = [file.stat() for file in files_of(path, split)]
    return sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)


def _footer(file: Path) -> bytes:
    """Raises PoolError: a Parquet file has no footer, or not a whole one."""
    size = file.stat().st_size
    with file.open("rb") as content:
        if file.suffix == ".parquet":
            content.seek(-min(8, size), 2)
            end = content.read()
            length = int.from_bytes(end[:4], "little")
            if not end.endswith(b"PAR1") or 8 + length > size:
                raise PoolError(f"{file}: is not a whole Parquet file; fetch the file again")
            content.seek(-8 - length, 2)
            return content.read(length)
        head = content.read(_ENDS)
        content.seek(-min(_ENDS, size), 2)
        return head + content.read()


def _is_glob(path: Path) -> bool:
    return glob.has_magic(str(path)) and not path.exists()


def _globbed(path: Path) -> list[Path]:
    names = sorted(glob.glob(str(path), recursive=True))
    return [Path(name) for name in names if Path(name).suffix in SUFFIXES]


def _below(folder: Path) -> list[Path]:
    hidden = (file for file in folder.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    files = (
        file
        for file in hidden
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    return sorted(files)


def folder_of(path: Path) -> Path:
    """The folder that names of a table's files are relative to."""
    while _is_glob(path):
        path = path.parent
    return path
