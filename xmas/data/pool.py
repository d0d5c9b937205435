"""The pool: the instruction set to choose from, known by its content."""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from xmas.data.readers import DEFAULT, open_rows
from xmas.data.rows import MAX_PIXELS, PoolError, Rows
from xmas.store import Made, Store, describe, sha256_of, volatile

if TYPE_CHECKING:
    from xmas.data.valid_rows import ValidRows

INVALID = ("error", "skip")


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
    >>> [image.as_posix() for image in rows.images_of(0)]
    ['images/coco/1.png']

    Args:
        annotations: the file, or `Made` by a stage that generates it, which then is the identity.
        images: the folder that image names are relative to.
        sha256: of the annotation file, checked when the pool is opened; None: hash the file.
        name: for people; in tables and logs.
        format: a module of `xmas.data.readers`; None: the one that recognises the file.
        columns: what the records call their parts where it is not our name: `images: photos`.
        max_pixels: of an image, width times height; a larger one is refused before it is decoded.
        outside: whether images may be outside `images`: named by `..`, absolute paths or links.
        invalid: what to do about malformed rows and rows whose image is broken: `error`, or `skip`.
            A pool that skips is another pool, that of `ValidRows`: its rows are numbered anew.

    Raises:
        ValueError: another `invalid`.
    """

    annotations: str | Made = volatile()
    images: str | Made = volatile()
    sha256: str | None = None
    name: str = volatile("pool")
    format: str | None = volatile(None)
    columns: dict[str, str] = volatile(default_factory=dict, hash=False)
    max_pixels: int = volatile(MAX_PIXELS)
    outside: bool = volatile(False)
    invalid: str = volatile("error")

    def __post_init__(self) -> None:
        if self.invalid not in INVALID:
            raise ValueError(
                f"pool.invalid={self.invalid!r} is no choice; there are {', '.join(INVALID)}"
            )
        if self.invalid == "skip" and self.valid_rows is None:
            from xmas.data.valid_rows import FILE, ValidRows

            whole = dataclasses.replace(self, invalid="error")
            object.__setattr__(self, "annotations", Made(ValidRows(whole), FILE))
            object.__setattr__(self, "sha256", None)
            object.__setattr__(self, "format", None)

    @property
    def valid_rows(self) -> "ValidRows | None":
        """The stage that left rows of this pool out, if one did."""
        from xmas.data.valid_rows import ValidRows

        stage = self.annotations.stage if isinstance(self.annotations, Made) else None
        return stage if isinstance(stage, ValidRows) else None

    def identity(self) -> Any:
        if isinstance(self.annotations, Made):
            identity = {"pool": describe(self.annotations)}
        else:
            identity = {"pool": {"sha256": self.sha256 or self._hash()}}
        # A file in another format than its own has other rows; LLaVA's is what it was before.
        named = {} if self.format in (None, DEFAULT) else {"format": self.format}
        return identity | named | ({"columns": dict(self.columns)} if self.columns else {})

    def open(self, store: Store | None = None) -> Rows:
        """The rows of this pool; a stage that makes it is computed first, in `store`.

        Raises:
            PoolError: the file is missing, has another sha256, or has malformed records.
        """
        store = store or Store()
        return _opened(*self._files(store), False)

    def at_hand(self, store: Store) -> bool:
        """Whether the annotations can be read now, without computing a stage."""
        if isinstance(self.annotations, Made):
            return store.path(self.annotations.stage).exists()
        return Path(self.annotations).expanduser().exists()

    def open_all(self, store: Store) -> Rows:
        """As `open`, with malformed rows in `Rows.faults`, where the format's reader can go on."""
        return _opened(*self._files(store), True)

    def _files(
        self, store: Store
    ) -> tuple[Path, Path, str | None, tuple[tuple[str, str], ...], int, bool, int, int]:
        """Annotations, images, format, columns, limits of images, and the annotations' size and
        time of change.
        """
        for setting, place in (("annotations", self.annotations), ("images", self.images)):
            _check_set(setting, place)
        if isinstance(self.annotations, str) and self.sha256 not in (None, self._hash()):
            raise PoolError(
                f"{self.annotations}: sha256 is {self._hash()}, the configuration expects "
                f"{self.sha256}; take the official file, or set pool.sha256=null to use this one"
            )
        annotations = store.find(self.annotations)
        stat = annotations.stat()
        images = store.find(self.images)
        limits = self.max_pixels, self.outside
        columns = tuple(sorted(self.columns.items()))
        return annotations, images, self.format, columns, *limits, stat.st_size, stat.st_mtime_ns

    def _hash(self) -> str:
        _check_set("annotations", self.annotations)
        try:
            return sha256_of(str(Path(cast("str", self.annotations)).expanduser()))
        except OSError as error:
            raise PoolError(
                f"pool.annotations={self.annotations}: {error.strerror or error}; "
                "give the path of an annotation file, e.g. a JSON list in LLaVA's format"
            ) from error


_SETTINGS = {
    "annotations": "the path of a JSON list in LLaVA's format, or of a file that a reader knows",
    "images": "the folder that image paths in the annotations start from",
}


def _check_set(setting: str, place: object) -> None:
    """Raise PoolError unless a setting is one path: `???` marks what configurations leave open."""
    if place == "???":
        raise PoolError(f"pool.{setting} is not set: give {_SETTINGS[setting]}")
    if not isinstance(place, str | Made):
        raise PoolError(
            f"pool.{setting}={place!r}: expected one path. Join several JSON lists into one file "
            "with `jq -s add FILE FILE ...`, their images below one folder (with links to them, "
            "pool.outside=true)"
        )


@functools.lru_cache(maxsize=4)
def _opened(
    annotations: Path,
    images: Path,
    name: str | None,
    columns: tuple[tuple[str, str], ...],
    max_pixels: int,
    outside: bool,
    size: int,
    modified: int,
    malformed_too: bool,
) -> Rows:
    """Opened once as long as the file's size and time of change stay."""
    rows = open_rows(annotations, images, name, dict(columns), malformed_too=malformed_too)
    rows.max_pixels, rows.outside = max_pixels, outside
    return rows
