"""The pool: the instruction set to choose from, known by its content."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
from jaxtyping import Int

from xmas.data.datasets_by_name import name_of
from xmas.data.indexes.stored_index import LARGE, StoredIndexes
from xmas.data.opened_files import PoolFiles, opened
from xmas.data.pool_places import has_own_images, identity_of, is_there, state
from xmas.data.readers import DEFAULT
from xmas.data.rows import MAX_PIXELS, PoolError, Rows
from xmas.store import Made, Stage, Store, describe, volatile

if TYPE_CHECKING:
    import xmas.data.held_out
    import xmas.data.valid_rows

INVALID = ("error", "skip")
OF_ANNOTATIONS: dict[str, Any] = {  # what describes the file, not the rows that a stage makes of it
    "sha256": None, "format": None, "columns": {}, "split": None, "invalid": "error",
    "hold_out": None,
}  # fmt: skip
T = TypeVar("T")


@runtime_checkable
class OpensRows(Protocol):
    """A stage whose result is no annotation file but rows of another pool, opened by itself."""

    @property
    def pool(self) -> "Pool": ...

    def open(self, store: Store, name: str) -> Rows:
        """The rows that the file `name` of its result lists."""
        ...


@dataclasses.dataclass(frozen=True)
class Pool:
    """An instruction set to choose from: an annotation file and a folder of images, or a dataset.

    Its identity is the sha256 of the annotations, wherever the files are; of a dataset in shards
    the hash of their names, sizes and footers. Building a pool reads nothing; `open` gives its
    rows.

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
        annotations: the file; a folder, file or glob of Parquet or Arrow shards; a dataset of the
            hub, OWNER/NAME or OWNER/NAME/CONFIG; or `Made` by a stage that generates it, which then
            is the identity.
        images: the folder that image names are relative to; None: the folder of the shards.
        path: another name of `annotations`, for datasets.
        split: of a dataset with several; None: train.
        sha256: of the annotation file, checked when the pool is opened; None: hash the file.
        name: for people; in tables and logs.
        format: a module of `xmas.data.readers`; None: the one that recognises the file.
        columns: what the records call their parts where it is not our name: `images: photos`.
        max_pixels: of an image, width times height; a larger one is refused before it is decoded.
        outside: whether images may be outside `images`: named by `..`, absolute paths or links.
        invalid: what to do about malformed rows and rows whose image is broken: `error`, or `skip`.
            A pool that skips is another pool, that of `ValidRows`: its rows are numbered anew.
        hold_out: which rows are held out, to be scored. Such a pool is another pool as well, that
            of the other rows of `HeldOutSplit`, numbered anew.

    Raises:
        ValueError: another `invalid`.
    """

    annotations: str | Made = volatile("???")
    images: str | Made | None = volatile(None)
    sha256: str | None = None
    name: str = volatile("pool")
    format: str | None = volatile(None)
    columns: dict[str, str] = volatile(default_factory=dict, hash=False)
    max_pixels: int = volatile(MAX_PIXELS)
    outside: bool = volatile(False)
    invalid: str = volatile("error")
    path: str | None = volatile(None)
    split: str | None = volatile(None)
    hold_out: "xmas.data.held_out.HoldOut | None" = volatile(None)

    def __post_init__(self) -> None:
        if self.invalid not in INVALID:
            raise ValueError(
                f"pool.invalid={self.invalid!r} is no choice; there are {', '.join(INVALID)}"
            )
        if self.path is not None:
            if self.annotations not in ("???", self.path):
                raise ValueError(
                    f"pool.path={self.path} and pool.annotations={self.annotations} are two pools; "
                    "give one of them"
                )
            object.__setattr__(self, "annotations", self.path)
            object.__setattr__(self, "path", None)
        if self.invalid == "skip" and self.valid_rows is None:
            from xmas.data.valid_rows import FILE, ValidRows

            whole = dataclasses.replace(self, invalid="error", hold_out=None)
            object.__setattr__(self, "annotations", Made(ValidRows(whole), FILE))
            object.__setattr__(self, "sha256", None)
            object.__setattr__(self, "format", None)
        if self.hold_out is not None:
            from xmas.data.held_out import HeldOutSplit

            whole = dataclasses.replace(self, hold_out=None)
            rest = HeldOutSplit(whole, self.hold_out).rest
            for field in dataclasses.fields(self):
                object.__setattr__(self, field.name, getattr(rest, field.name))

    @property
    def held_out_split(self) -> "xmas.data.held_out.HeldOutSplit | None":
        """The stage that split this pool from rows held out, if one did."""
        if not isinstance(self.annotations, Made):
            return None
        from xmas.data.held_out import HeldOutSplit

        stage = self.annotations.stage
        return stage if isinstance(stage, HeldOutSplit) else None

    @property
    def whole(self) -> "Pool":
        """The pool without what became of it: no rows are left out or held out."""
        stage = self.held_out_split or self.valid_rows
        return self if stage is None else stage.pool.whole

    @property
    def valid_rows(self) -> "xmas.data.valid_rows.ValidRows | None":
        """The stage that left faulty rows of this pool out, if one did."""
        if not isinstance(self.annotations, Made):
            return None
        from xmas.data.valid_rows import ValidRows

        stage = self.annotations.stage
        if self.held_out_split is not None:
            return self.held_out_split.pool.valid_rows
        return stage if isinstance(stage, ValidRows) else None

    def identity(self) -> Any:
        if isinstance(self.annotations, Made):
            identity = {"pool": describe(self.annotations)}
        else:
            kind, content = ("sha256", self.sha256) if self.sha256 else self._content()
            identity = {"pool": {kind: content}}
        # A file in another format than its own has other rows; LLaVA's is what it was before.
        named = {} if self.format in (None, DEFAULT) else {"format": self.format}
        options = {"columns": dict(self.columns), "split": self.split}
        return identity | named | {name: value for name, value in options.items() if value}

    def inputs(self) -> list[Stage]:
        """The stages whose results opening it asks for: those that made it, at any depth."""
        made = [part.stage for part in (self.annotations, self.images) if isinstance(part, Made)]
        whole = [stage.pool for stage in made if isinstance(stage, OpensRows)]
        return [*made, *(stage for pool in whole for stage in pool.inputs())]

    @classmethod
    def from_dataset(cls, dataset: Any, **options: Any) -> "Pool":
        """The pool of a `datasets.Dataset`, known by its fingerprint; nothing is copied.

        Args:
            options: other arguments of a pool, such as `columns`.
        """
        return cls(name_of(dataset), **options)

    def open(self, store: Store | None = None) -> Rows:
        """The rows of this pool; a stage that makes it is computed first, in `store`, which keeps
        the index of a large pool too.

        Raises:
            PoolError: the file is missing, has another sha256, or has malformed records.
        """
        return self._opened(store, malformed_too=False)

    def at_hand(self, store: Store) -> bool:
        """Whether the annotations can be read now, without computing a stage."""
        if isinstance(self.annotations, Made):
            return store.path(self.annotations.stage).exists()
        return is_there(Path(self.annotations).expanduser())

    def open_all(self, store: Store) -> Rows:
        """As `open`, with malformed rows in `Rows.faults`, where the format's reader can go on."""
        return self._opened(store, malformed_too=True)

    def file_rows(self, store: Store, rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
        """The numbers in the original annotation file of rows of this pool."""
        if self.held_out_split is not None:
            assert isinstance(self.annotations, Made)
            return self.held_out_split.numbers(store, self.annotations.name)[rows]
        return rows if self.valid_rows is None else self.valid_rows.file_rows(store)[rows]

    def _opened(self, store: Store | None, *, malformed_too: bool) -> Rows:
        """The rows; the index of a large pool is kept in the store, if one is given."""
        place = store or Store()
        if (rows := self._part(place)) is not None:
            return rows
        files = self._files(place)
        indexes = StoredIndexes.of(store) if store is not None and files.size >= LARGE else None
        return opened(files, malformed_too, indexes)

    def _part(self, store: Store) -> Rows | None:
        """The rows of a pool that is some of another's rows; None where it has its own files."""
        made = self.annotations
        if isinstance(made, Made) and isinstance(made.stage, OpensRows):
            return made.stage.open(store, made.name)
        return None if self.valid_rows is None else self.valid_rows.rows_of_table(store)

    def _files(self, store: Store) -> PoolFiles:
        """Where everything is, and how it is to be read."""
        _check_set("annotations", self.annotations)
        if isinstance(self.annotations, str) and self.sha256 is not None:
            content = self._content()[1]
            if content != self.sha256:
                raise PoolError(
                    f"{self.annotations}: sha256 is {content}, the configuration expects "
                    f"{self.sha256}; take the official file, or set pool.sha256=null to use this "
                    "one"
                )
        annotations = store.find(self.annotations)
        images = self.images
        if images in (None, "???") and has_own_images(annotations):
            images = str(annotations)
        _check_set("images", "???" if images is None else images)
        size, modified = self._at_path(lambda: state(annotations, self.split))
        return PoolFiles(
            annotations,
            store.find(cast("str | Made", images)),
            self.format,
            tuple(sorted(self.columns.items())),
            self.split,
            self.max_pixels,
            self.outside,
            size,
            modified,
        )

    def _content(self) -> tuple[str, str]:
        """The kind and hash of what is at the path."""
        _check_set("annotations", self.annotations)
        path = Path(cast("str", self.annotations)).expanduser()
        return self._at_path(lambda: identity_of(path, self.split))

    def _at_path(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except OSError as error:
            raise PoolError(
                f"pool.annotations={self.annotations}: {error.strerror or error}; "
                "give the path of an annotation file, e.g. a JSON list in LLaVA's format, or of a "
                "dataset as pool.path"
            ) from error


_SETTINGS = {
    "annotations": "the path of a JSON list in LLaVA's format, or of a file that a reader knows, "
    "or as pool.path a dataset",
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
