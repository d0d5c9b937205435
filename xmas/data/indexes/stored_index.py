"""Indexes of large pools, built once and memory-mapped afterwards, in a folder of the store.

An index is known by the state of the pool's files and by how they are read. The folder may be
removed at any time: what is missing is built again.
"""

import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xmas.data.faults import Fault
from xmas.data.indexes.index import Index, Shown
from xmas.data.indexes.names import Names
from xmas.store import Store
from xmas.store.atomic import write_atomically
from xmas.store.durable import make_folder
from xmas.store.lock import alone
from xmas.store.writable import is_writable

log = logging.getLogger(__name__)

FOLDER = ".pools"  # of a store
LARGE = 64 << 20  # bytes of a pool's own files, from which its index is stored
_VERSION = 1  # of the files, and of the rules by which rows are indexed
_ARRAYS = ("offsets", "pictures", "stored", "source", "names", "name_offsets")


@dataclasses.dataclass(frozen=True)
class StoredIndexes:
    """The indexes in a folder of a store.

    Args:
        folder: where they are; each is a folder named by the hash of what it is of.
        locks: kind of locks, as of the store.
    """

    folder: Path
    locks: str = "auto"

    @classmethod
    def of(cls, store: Store) -> "StoredIndexes":
        """Those of a store."""
        return cls(Path(store.root) / FOLDER, store.locks)

    def get(self, of: Mapping[str, Any], make: Callable[[], Index]) -> Index:
        """The index of a pool, memory-mapped; made and stored if it is not there.

        Args:
            of: the state of the pool's files and how they are read, as plain data.
        """
        described = json.dumps({"version": _VERSION, **of}, sort_keys=True)
        place = self.folder / hashlib.sha256(described.encode()).hexdigest()[:16]
        if not place.exists():
            if not is_writable(self.folder):
                return make()
            make_folder(self.folder)
            with alone(place, kind=self.locks, waiting=lambda: log.info("%s: waits", place)):
                if not place.exists():
                    start = time.monotonic()
                    index = make()
                    write_atomically(place, lambda draft: _write(index, draft, described))
                    seconds = time.monotonic() - start
                    log.info("index of %d rows in %.1f s: %s", len(index.shown), seconds, place)
        return _read(place)


def state_of_file(status: os.stat_result) -> dict[str, Any]:
    """What changes when a file does; nobody can set the time of change as they like."""
    return {
        "size": status.st_size,
        "modified": status.st_mtime_ns,
        "changed": status.st_ctime_ns,
    }


def _write(index: Index, folder: Path, described: str) -> None:
    folder.mkdir()
    arrays = {
        "offsets": index.shown.offsets,
        "pictures": index.shown.pictures,
        "stored": index.stored,
        "source": index.source,
        "names": index.names.text,
        "name_offsets": index.names.offsets,
    }
    if index.spans is not None:
        arrays["spans"] = index.spans
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    record = {
        "of": json.loads(described),
        "sources": list(index.source_names),
        "sha256": index.sha256,
        "faults": [dataclasses.asdict(fault) for fault in index.faults],
    }
    (folder / "index.json").write_text(json.dumps(record))


def _read(folder: Path) -> Index:
    record = json.loads((folder / "index.json").read_text())
    arrays = {name: _mapped(folder / f"{name}.npy") for name in _ARRAYS}
    spans = folder / "spans.npy"
    return Index(
        Shown(arrays["offsets"], arrays["pictures"]),
        Names(arrays["names"], arrays["name_offsets"]),
        arrays["stored"],
        arrays["source"],
        record["sources"],
        _mapped(spans) if spans.exists() else None,
        [Fault(**fault) for fault in record["faults"]],
        record["sha256"],
    )


def _mapped(path: Path) -> np.ndarray:
    return np.asarray(np.load(path, mmap_mode="r"))
