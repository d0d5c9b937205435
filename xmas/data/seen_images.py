"""Which image files a result was made from, by their sizes: a note in the result's folder.

A pool is known by its annotations, wherever its images are: images that were fetched again, resized
or that are on another host give no other key. So a stage that reads them notes their sizes, and
later uses of its result compare.
"""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from xmas.data.pool import Pool
from xmas.data.rows import Rows
from xmas.store import Made, Stage, Store, digest
from xmas.store.integrity import meta_of

log = logging.getLogger(__name__)

FILE = "seen_images.json"
_SAMPLE = 1000  # images whose sizes are compared where nothing is computed: some milliseconds
_THREADS = 16  # on a network file system each size is a request
ABSENT = -1


def note(pool: Pool, examples: Rows, out: Path) -> None:
    """Note in a result's folder the images that it is made from, unless a stage made them."""
    if isinstance(pool.images, Made):
        return
    names = examples.picture_names
    sizes = _sizes(examples.images, names)
    some = range(0, len(names), max(1, -(-len(names) // _SAMPLE)))
    record = {
        "pool": digest(pool.identity()),
        "images": len(names),
        "digest": _digest(names, sizes),
        "sizes": {names[number]: sizes[number] for number in some},
    }
    (out / FILE).write_text(json.dumps(record))


def present_digest(pool: Pool, examples: Rows) -> str | None:
    """Names and sizes of all images as they are now, as one hash; None where a stage made them."""
    if isinstance(pool.images, Made):
        return None
    return _digest(examples.picture_names, _sizes(examples.images, examples.picture_names))


def noted_digest(folder: Path) -> str | None:
    """The hash that `present_digest` gave when a result was made; None if it was not noted."""
    path = folder / FILE
    return json.loads(path.read_text())["digest"] if path.exists() else None


def warn_of_changes(goal: Stage, store: Store) -> None:
    """Warn of results that a goal was made from and whose images are others now.

    The sizes of a sample are compared, so that a goal whose results are all there takes no longer.
    """
    pools = {digest(pool.identity()): pool for pool in _pools(goal)}
    for folder in _made_from(store.path(goal), store):
        record = json.loads((folder / FILE).read_text())
        pool = pools.get(record["pool"])
        if pool is not None and isinstance(pool.images, str):
            _compare(str(folder), str(Path(pool.images).expanduser()))


@functools.cache
def _compare(folder: str, images: str) -> None:
    """Warn once a process if a result's images are others now."""
    sizes = json.loads((Path(folder) / FILE).read_text())["sizes"]
    present = _sizes(Path(images), list(sizes))
    others = [name for name, size in zip(sizes, present, strict=True) if sizes[name] != size]
    if not others:
        return
    kind, key = Path(folder).parts[-2:]
    finished = meta_of(Path(folder)).get("finished", "an unknown date")
    log.warning(
        "%s/%s of %s was made from other images: %d of %d compared in %s have another size or are "
        "missing, e.g. %s; force=%s makes it anew, and what was made from it in turn",
        kind, key, finished, len(others), len(sizes), images, others[0], kind,
    )  # fmt: skip


def _made_from(folder: Path, store: Store) -> Iterator[Path]:
    """The results with a note among those that a finished result was made from, itself included."""
    pending, visited = [folder], {folder}
    while pending:
        result = pending.pop()
        if not (result / "meta.json").exists():
            continue
        if (result / FILE).exists():
            yield result
        inputs = {Path(store.root) / name for name in meta_of(result).get("inputs", [])}
        pending += sorted(inputs - visited)
        visited |= inputs


def _pools(value: Any) -> Iterator[Pool]:
    """The pools in a stage, at any depth."""
    if isinstance(value, Pool):
        yield value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _pools(getattr(value, field.name))
    elif isinstance(value, dict):
        yield from _pools(list(value.values()))
    elif isinstance(value, list | tuple):
        for element in value:
            yield from _pools(element)


def _sizes(folder: Path, names: Iterable[str]) -> list[int]:
    def size(name: str) -> int:
        try:
            return (folder / name).stat().st_size
        except OSError:
            return ABSENT

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(size, names))


def _digest(names: Iterable[str], sizes: Iterable[int]) -> str:
    text = "".join(f"{name}\t{size}\n" for name, size in zip(names, sizes, strict=True))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
