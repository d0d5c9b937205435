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
from xmas.store.integrity import META, check, meta_of

log = logging.getLogger(__name__)

FILE = "seen_images.json"
_SAMPLE = 1000  # images whose sizes are compared where nothing is computed: some milliseconds
_THREADS = 16  # on a network file system each size is a request
ABSENT = -1


def note(pool: Pool, examples: Rows, out: Path) -> None:
    """Note in a result's folder the images that it is made from, unless a stage made them."""
    names = _files(examples)
    if isinstance(pool.images, Made) or not names:
        return
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
    """Names and sizes of all image files as they are now, as one hash; None where there are none,
    or a stage made them.
    """
    names = _files(examples)
    if isinstance(pool.images, Made) or not names:
        return None
    return _digest(names, _sizes(examples.images, names))


def noted_digest(folder: Path) -> str | None:
    """The hash that `present_digest` gave when a result was made; None if it was not noted."""
    path = folder / FILE
    return json.loads(path.read_text())["digest"] if path.exists() else None


def warn_of_changes(goal: Stage, store: Store) -> None:
    """Warn if a goal was made from images that are others now; names what to compute anew.

    The sizes of a sample are compared, so that a goal whose results are all there takes no longer.
    """
    folders = {
        digest(pool.identity()): str(Path(pool.images).expanduser())
        for pool in _pools(goal)
        if isinstance(pool.images, str)
    }
    changes: dict[str, str] = {}
    kinds: dict[str, None] = {}  # of the results to compute anew, inputs first

    def visit(result: Path) -> bool:
        """Whether a result, or one that it was made from, saw other images."""
        if str(result) in visited:
            return visited[str(result)]
        inner = [visit(Path(store.root) / name) for name in _inputs(str(result))]
        change = _change(str(result), folders)
        if change is not None:
            changes["/".join(result.parts[-2:])] = change
        visited[str(result)] = change is not None or any(inner)
        if visited[str(result)]:
            kinds[result.parent.name] = None
        return visited[str(result)]

    visited: dict[str, bool] = {}
    if visit(store.path(goal)):
        _warn(
            f"results were made from other images: "
            f"{'; '.join(f'{name}: {change}' for name, change in changes.items())}; "
            f"'force=[{','.join(kinds)}]' makes them anew"
        )


@functools.cache
def _warn(message: str) -> None:
    log.warning("%s", message)


def _change(result: str, folders: dict[str, str]) -> str | None:
    """How the images that a result was made from are others now; None if they are the same."""
    path = Path(result) / FILE
    if not path.exists():
        return None
    check(path.parent, FILE)
    record = json.loads(path.read_text())
    images = folders.get(record["pool"])
    others = () if images is None else _others(result, images)
    if not others:
        return None
    finished = str(meta_of(Path(result)).get("finished", "an unknown date"))[:10]
    return (
        f"{len(others)} of {len(record['sizes'])} compared have another size than on {finished}, "
        f"or are missing, e.g. {Path(str(images)) / others[0]}"
    )


@functools.cache
def _others(result: str, images: str) -> tuple[str, ...]:
    """The images of a result's sample that have another size now; looked up once a process."""
    sizes = json.loads((Path(result) / FILE).read_text())["sizes"]
    present = _sizes(Path(images), list(sizes))
    return tuple(name for name, size in zip(sizes, present, strict=True) if sizes[name] != size)


@functools.cache
def _inputs(result: str) -> tuple[str, ...]:
    """The results, `<kind>/<key>`, that a finished result was made from."""
    folder = Path(result)
    return tuple(meta_of(folder).get("inputs", ())) if (folder / META).exists() else ()


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


def _files(examples: Rows) -> list[str]:
    """The names of the images that are files: what is in the pool's own files is their content."""
    names = enumerate(examples.picture_names)
    return [name for number, name in names if examples.in_file(number)]


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
