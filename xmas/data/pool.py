"""The pool: image-text conversations in LLaVA's format, known by their row, opened without loading.

The annotation file is streamed once; of every record only its byte range, its image and its source
stay in memory, so that a pool of 665k rows opens on a laptop and a subset's records are copied byte
for byte. `id` is not a key: LLaVA-665k repeats ids.
"""

import codecs
import dataclasses
import functools
import json
import os
import re
import weakref
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Int

from xmas.store import Made, Store, describe, sha256_of, volatile

IMAGE_PLACEHOLDER = "<image>"
_CHUNK = 1 << 22  # bytes read at a time
_SPACE = re.compile(r"\s*")


class PoolError(ValueError):
    """A pool's files are not what they should be; the message names file, row and value."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """An instruction set to choose from: an annotation file and a folder of images.

    Its identity is the sha256 of the annotations, wherever they lie: given, it is checked when the
    pool is opened; `None`, the file is hashed. A generated pool is `Made` by a stage, which then is
    its identity.
    """

    annotations: str | Made = volatile()  # a JSON list of LLaVA conversations
    images: str | Made = volatile()  # the folder that `image` paths start from
    sha256: str | None = None  # of the annotation file
    name: str = volatile("pool")

    def identity(self) -> Any:
        if isinstance(self.annotations, Made):
            return {"pool": describe(self.annotations)}
        return {"pool": {"sha256": self.sha256 or self._hash()}}

    def open(self, store: Store | None = None) -> "Examples":
        """The rows of this pool; generated first if a stage makes it.

        Raises PoolError: the file is missing, has another sha256, or holds a malformed record.
        """
        store = store or Store()
        if isinstance(self.annotations, str) and self.sha256 not in (None, self._hash()):
            raise PoolError(
                f"{self.annotations}: sha256 is {self._hash()}, the configuration expects "
                f"{self.sha256}; take the official file, or set pool.sha256=null to use this one"
            )
        annotations = store.find(self.annotations)
        found = annotations.stat()
        return _opened(annotations, store.find(self.images), found.st_size, found.st_mtime_ns)

    def _hash(self) -> str:
        try:
            return sha256_of(str(Path(cast("str", self.annotations)).expanduser()))
        except OSError as error:
            raise PoolError(
                f"pool.annotations={self.annotations}: {error.strerror or error}; "
                "give the path of a JSON list in LLaVA's format"
            ) from error


@functools.lru_cache(maxsize=4)
def _opened(annotations: Path, images: Path, size: int, modified: int) -> "Examples":
    return Examples(annotations, images)


class Examples:
    """The rows of an opened pool.

    `has_image` (rows,) bool; `picture` (rows,) the position of a row's image in `picture_names`, -1
    without one; `sources` (rows,) the record's `source`, else the first folder of its image, else
    "text"; `images` the folder. Records are parsed when they are asked for.
    """

    def __init__(self, annotations: Path, images: Path) -> None:
        self.annotations = annotations
        self.images = images
        spans, pictures, sources = array("q"), array("q"), array("q")
        names: dict[str, int] = {}  # every name is kept once, whatever the number of rows
        known: dict[str, int] = {}
        for row, (start, stop, record) in enumerate(_records(annotations)):
            _check(record, annotations, row)
            spans.extend((start, stop))
            image = record.get("image")
            pictures.append(-1 if image is None else names.setdefault(image, len(names)))
            sources.append(known.setdefault(_source(record), len(known)))
        self._spans: Int[np.ndarray, "rows 2"] = np.array(spans, dtype=np.int64).reshape(-1, 2)
        self.picture_names: list[str] = sorted(names)
        place = np.zeros(len(names), dtype=np.int64)
        place[[names[name] for name in self.picture_names]] = np.arange(len(names))
        self.picture: Int[np.ndarray, " rows"] = np.array(pictures, dtype=np.int64)
        self.has_image: Bool[np.ndarray, " rows"] = self.picture >= 0
        self.picture[self.has_image] = place[self.picture[self.has_image]]
        self.sources: np.ndarray = np.array(list(known), dtype=str)[np.array(sources, dtype=int)]
        self._file = os.open(annotations, os.O_RDONLY)  # a map's pages would count as memory
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return json.loads(self.raw(row))

    def raw(self, row: int) -> bytes:
        """The record of `row` as it stands in the annotation file."""
        start, stop = self._spans[row].tolist()
        return os.pread(self._file, stop - start, start)

    def image_path(self, row: int) -> Path:
        """Where the image of `row` lies. Raises PoolError: the row has none."""
        if not self.has_image[row]:
            raise PoolError(f"{self.annotations}: row {row} has no image")
        return self.images / self.picture_names[self.picture[row]]

    def conversation(self, row: int) -> list[tuple[str, str]]:
        """(question, answer) for every round of `row`, the image placeholder removed.

        As in LLaVA's own loader a first turn of the model is dropped, and only the turn that had
        the placeholder is stripped.
        """
        turns = self[row]["conversations"]
        if turns[0]["from"] == "gpt":
            turns = turns[1:]
        said = [turn["value"] for turn in turns]
        if self.has_image[row]:
            said = [
                text.replace(IMAGE_PLACEHOLDER, "").strip() if IMAGE_PLACEHOLDER in text else text
                for text in said
            ]
        return list(zip(said[0::2], said[1::2], strict=True))

    def image_round(self, row: int) -> int:
        """The round of `conversation` whose question has the image; 0 where none says so."""
        turns = self[row]["conversations"]
        turns = turns[1:] if turns[0]["from"] == "gpt" else turns
        shown = [IMAGE_PLACEHOLDER in turn["value"] for turn in turns[0::2]]
        return shown.index(True) if True in shown else 0


def _source(record: dict[str, Any]) -> str:
    named = record.get("source")
    if isinstance(named, str):
        return named
    image = record.get("image")
    return (
        image.split("/")[0]
        if isinstance(image, str) and "/" in image
        else ("images" if image else "text")
    )


def _records(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(first byte, byte behind the last, record) of every element of a JSON list, streamed.

    Raises PoolError: no such file, not UTF-8, not a list of objects, or cut short.
    """
    decode = json.JSONDecoder().raw_decode
    try:
        file = path.open("rb")
    except OSError as error:
        raise PoolError(f"{path}: {error.strerror}; give the path of a JSON list") from error
    with file:
        reader = codecs.getincrementaldecoder("utf-8")()
        text, at, byte, ended = "", 0, 0, False

        def more() -> None:
            nonlocal text, at, ended
            chunk = file.read(max(_CHUNK, len(text) - at))
            try:
                text, at = text[at:] + reader.decode(chunk, final=not chunk), 0
            except UnicodeDecodeError as error:
                raise PoolError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
            ended = not chunk

        def advance(to: int) -> None:
            nonlocal at, byte
            passed = text[at:to]
            byte += len(passed) if passed.isascii() else len(passed.encode())
            at = to

        def skip_space() -> str:
            while True:
                advance(cast("re.Match[str]", _SPACE.match(text, at)).end())  # or nothing
                if at < len(text) or ended:
                    return text[at : at + 1]
                more()

        def close() -> None:
            advance(at + 1)
            if other := skip_space():
                raise PoolError(
                    f"{path}: after the list comes {other!r}, expected the end of the file"
                )

        more()
        if text.startswith("\ufeff"):
            advance(1)
        if (first := skip_space()) != "[":
            raise PoolError(
                f"{path}: starts with {first!r}, expected a JSON list of conversations ('['); "
                "JSON lines can be turned into a list with `jq -s . FILE`"
            )
        advance(at + 1)
        row = 0
        if skip_space() == "]":
            return close()
        while True:
            if not skip_space():
                raise PoolError(f"{path}: cut short after row {row - 1}; the list is not closed")
            try:
                record, stop = decode(text, at)
                if stop == len(text) and not ended:  # a number might go on in the next chunk
                    raise json.JSONDecodeError("may go on", text, stop)
            except json.JSONDecodeError as error:
                if not ended:
                    more()
                    continue
                raise PoolError(f"{path}: row {row} is not valid JSON: {error}") from error
            start = byte
            advance(stop)
            if not isinstance(record, dict):
                raise PoolError(
                    f"{path}: row {row} is {_short(record)}, "
                    "expected an object with `conversations`"
                )
            yield start, byte, record
            row += 1
            match skip_space():
                case ",":
                    advance(at + 1)
                case "]":
                    return close()
                case other:
                    raise PoolError(
                        f"{path}: after row {row - 1} comes {other!r}, expected ',' or ']'; "
                        "the file is cut short or damaged"
                    )


def _check(record: dict[str, Any], path: Path, row: int) -> None:
    """Raise PoolError unless `record` is a conversation in LLaVA's format."""
    where = f"{path}: row {row} (id {record.get('id')!r})"
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise PoolError(f"{where}: `conversations` is {_short(turns)}, expected a list of turns")
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise PoolError(f"{where}: turn {number} is {_short(turn)}, expected {{from, value}}")
        if turn.get("from") not in ("human", "gpt"):
            raise PoolError(
                f"{where}: turn {number} is from {turn.get('from')!r}, expected 'human' or 'gpt'"
            )
    said = [turn["from"] for turn in turns]
    kept = said[1:] if said[0] == "gpt" else said
    if len(kept) % 2 or kept != ["human", "gpt"] * (len(kept) // 2) or not kept:
        raise PoolError(
            f"{where}: turns come from {_short(said)}, expected human and gpt in turn, gpt last; "
            "mend or remove the row"
        )
    image = record.get("image")
    if image is not None:
        if not isinstance(image, str) or not image:
            raise PoolError(f"{where}: `image` is {_short(image)}, expected a relative path")
        count = sum(turn["value"].count(IMAGE_PLACEHOLDER) for turn in turns)
        if count != 1:
            raise PoolError(
                f"{where}: {count} {IMAGE_PLACEHOLDER} for one image ({image}), expected exactly 1"
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
