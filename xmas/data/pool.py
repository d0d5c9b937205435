"""The pool: the instruction set to choose from, known by its content."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, cast

from xmas.data.readers import DEFAULT, reader_of
from xmas.data.rows import MAX_PIXELS, PoolError, Rows
from xmas.store import Made, Store, describe, sha256_of, volatile


@dataclasses.dataclass(frozen=True)
class Pool:
    """An instruction set to choose from: an annotation file and a folder of images.

    Its identity is the sha256 of the annotations, wherever the files are. Building a pool reads
    nothing; `open` gives its rows.

    >>> from xmas import Pool
    >>> pool = Pool("mix.json", "images")
    >>> rows = pool.open()
    >>> len(rows), rows.sources.tolist()
    (3, ['coco', 'coco', 'text'])
    >>> rows.conversation(0)
    [('What is this?', 'A fig.')]
    >>> rows.image_path(0).as_posix()
    'images/coco/1.png'

    Args:
        annotations: the file, or `Made` by a stage that generates it, which then is the identity.
        images: the folder that image names are relative to.
        sha256: of the annotation file, checked when the pool is opened; None: hash the file.
        name: for people; in tables and logs.
        format: a module of `xmas.data.readers`; None: the one that recognises the file.
        max_pixels: of an image, width times height; a larger one is refused before it is decoded.
    """

    annotations: str | Made = volatile()
    images: str | Made = volatile()
    sha256: str | None = None
    name: str = volatile("pool")
    format: str | None = volatile(None)
    max_pixels: int = volatile(MAX_PIXELS)

    def identity(self) -> Any:
        if isinstance(self.annotations, Made):
            identity = {"pool": describe(self.annotations)}
        else:
            identity = {"pool": {"sha256": self.sha256 or self._hash()}}
        # A file in another format than its own has other rows; LLaVA's is what it was before.
        return identity if self.format in (None, DEFAULT) else identity | {"format": self.format}

    def open(self, store: Store | None = None) -> Rows:
        """The rows of this pool; a stage that makes it is computed first, in `store`.

        Raises:
            PoolError: the file is missing, has another sha256, or has a malformed record.
        """
        store = store or Store()
        if isinstance(self.annotations, str) and self.sha256 not in (None, self._hash()):
            raise PoolError(
                f"{self.annotations}: sha256 is {self._hash()}, the configuration expects "
                f"{self.sha256}; take the official file, or set pool.sha256=null to use this one"
            )
        annotations = store.find(self.annotations)
        stat = annotations.stat()
        images = store.find(self.images)
        return _opened(
            annotations, images, self.format, self.max_pixels, stat.st_size, stat.st_mtime_ns
        )

    def _hash(self) -> str:
        if self.annotations == "???":  # how configurations mark what they leave open
            raise PoolError(
                "pool.annotations is not set: give the path of a JSON list in LLaVA's format"
            )
        try:
            return sha256_of(str(Path(cast("str", self.annotations)).expanduser()))
        except OSError as error:
            raise PoolError(
                f"pool.annotations={self.annotations}: {error.strerror or error}; "
                "give the path of an annotation file, e.g. a JSON list in LLaVA's format"
            ) from error


@functools.lru_cache(maxsize=4)
def _opened(
    annotations: Path, images: Path, name: str | None, max_pixels: int, size: int, modified: int
) -> Rows:
    """Opened once as long as the file's size and time of change stay."""
    rows = reader_of(annotations, name).read(annotations, images)
    rows.max_pixels = max_pixels
    return rows
