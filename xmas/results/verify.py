"""Read every file of a store's results and compare it with what was written: `xmas goal=verify`."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from xmas.results.listing import size_text
from xmas.store import Store
from xmas.store.force import kinds_of
from xmas.store.index import key_of
from xmas.store.integrity import (
    LIST,
    DamagedResultError,
    Files,
    check_file,
    damaged,
    file_names,
    files_of,
    finished_folders,
    listed_files,
    meta_of,
)
from xmas.store.nearest import suggestion
from xmas.store.progress import bar


@dataclasses.dataclass(frozen=True)
class Verify:
    """What `goal=verify` makes: the files that are not what they were when their result finished.

    Using a result checks its files as well, each once in a process and none above 16 GB; this
    checks all of them, also of results that nothing uses.

    >>> from xmas import Store
    >>> print(Verify().make(Store("no-such-folder")))
    no-such-folder: no results
    """

    kind: str | Sequence[str] | None = None  # only these kinds

    def make(self, store: Store) -> str:
        """What was checked, and which results have no hashes, made by an older version.

        Raises DamagedResultError: files are wrong; the message names each. Raises ValueError:
        `kind` names none that the store has.
        """
        folders = self._folders(store)
        if not folders:
            return f"{store.root}: no results"
        wrong: list[str] = []
        records: dict[Path, Files] = {}
        unrecorded: list[Path] = []
        for folder in folders:
            try:
                files = _record(folder)
            except DamagedResultError as error:
                wrong.append(str(error))
                continue
            if files is None:
                unrecorded.append(folder)
            else:
                records[folder] = files
        wrong += _check_all(records)
        lines = [_summary(store, records, unrecorded), *_unlisted(records)]
        if wrong:
            count = "1 file is" if len(wrong) == 1 else f"{len(wrong)} files are"
            raise DamagedResultError("\n".join([f"{count} wrong", *wrong, *lines]))
        return "\n".join(lines)

    def _folders(self, store: Store) -> list[Path]:
        """The results of the chosen kinds. A misspelt kind would find nothing wrong."""
        folders = finished_folders(Path(store.root))
        if self.kind is None:
            return folders
        kinds = sorted({folder.parent.name for folder in folders})
        for kind in kinds_of(self.kind):
            if kind not in kinds:
                raise ValueError(f"verify.kind={kind}: no such kind{suggestion(kind, kinds)}")
        return [folder for folder in folders if folder.parent.name in kinds_of(self.kind)]


def _record(folder: Path) -> Files | None:
    """All files of a result; None: it was made by an older version.

    Raises DamagedResultError: the record itself is wrong, or of another configuration.
    """
    files = files_of(folder)
    if (config := meta_of(folder).get("config")) is not None and key_of(config) != folder.name:
        raise damaged(folder / "meta.json", f"has the configuration of {key_of(config)}")
    return None if files is None else files | (listed_files(folder) or {})


def _check_all(records: dict[Path, Files]) -> list[str]:
    """Compare all files; a line for each that is wrong."""
    total = sum(entry["bytes"] for files in records.values() for entry in files.values())
    wrong = []
    with bar(total=total, label="verify", unit="byte", scaled=True) as progress:
        for folder, files in records.items():
            for name, entry in files.items():
                try:
                    check_file(folder / name, entry, again=True)
                except DamagedResultError as error:
                    wrong.append(str(error))
                progress.update(entry["bytes"])
    return wrong


def _summary(store: Store, records: dict[Path, Files], unrecorded: Sequence[Path]) -> str:
    count = sum(len(files) for files in records.values())
    size = sum(entry["bytes"] for files in records.values() for entry in files.values())
    text = f"{store.root}: checked {count} files of {len(records)} results, {size_text(size)}"
    if not unrecorded:
        return text
    names = ", ".join(f"{folder.parent.name}/{folder.name}" for folder in unrecorded)
    return f"{text}. Without hashes, made by an older version: {names}"


def _unlisted(records: dict[Path, Files]) -> Iterator[str]:
    """Files that a result did not have when it was finished: nothing reads them."""
    for folder, files in records.items():
        for name in sorted(set(file_names(folder)) - files.keys() - {LIST}):
            yield f"Not written by the store, and left alone: {folder / name}"
