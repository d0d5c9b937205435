"""Images of a pool for a model: pixels read as needed, or tower features computed once."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from xmas.data.broken_images import (
    REPORT,
    all_named,
    broken_images,
    read_picture,
    refuse,
)
from xmas.data.images import OneTileOfSeveral, Processor, prepared
from xmas.data.pool import Pool
from xmas.data.rows import PoolError, Rows, Shown
from xmas.data.seen_images import note, noted_digest, present_digest
from xmas.models.chat.batches import Batch
from xmas.models.vlm import check_finite, load, tower_features
from xmas.store import Stage, Store, volatile
from xmas.store.arrays import new_array
from xmas.store.progress import bar


@runtime_checkable
class Pictures(Protocol):
    """The images of a batch by pool row: `features` or `pixels`, and `sizes` for some families.

    All images of a row in order, row after row; `parts`: which of each row.
    """

    def __call__(
        self, rows: list[int], parts: Sequence[slice] | None = None
    ) -> dict[str, Tensor]: ...


@dataclasses.dataclass
class FromFiles:
    """Pixels, read and resized when a batch needs them."""

    examples: Rows
    processor: Processor

    def __call__(self, rows: list[int], parts: Sequence[slice] | None = None) -> dict[str, Tensor]:
        pictures = pictures_of_rows(self.examples.shown, rows, parts)
        images = (read_picture(self.examples, picture, row) for row, picture in pictures)
        several = self.examples.shown.counts[rows] > 1
        if not (isinstance(self.processor, OneTileOfSeveral) and several.any()):
            return prepared(self.processor, images)
        tensors = []
        for row, picture in pictures:
            image = [read_picture(self.examples, picture, row)]
            alone = self.examples.shown.counts[row] == 1
            tensors.append(
                self.processor.pictures(image) if alone else self.processor.pictures_of_row(image)
            )
        return {name: torch.cat([one[name] for one in tensors]) for name in tensors[0]}


@dataclasses.dataclass
class FromCache:
    """Tower features from `VisionFeatures`, memory-mapped."""

    values: Float[np.ndarray, "pictures patches width"]
    shown: Shown

    def __call__(self, rows: list[int], parts: Sequence[slice] | None = None) -> dict[str, Tensor]:
        pictures = [picture for _, picture in pictures_of_rows(self.shown, rows, parts)]
        return {"features": torch.from_numpy(self.values[pictures])}


def pictures_of_rows(
    shown: Shown, rows: Sequence[int], parts: Sequence[slice] | None = None
) -> list[tuple[int, int]]:
    """(row, picture) of all images of rows, or of the `parts` of their images."""
    every = [slice(None)] * len(rows) if parts is None else parts
    pairs = zip(rows, every, strict=True)
    return [(row, picture) for row, part in pairs for picture in shown[row][part].tolist()]


def features_of(model: nn.Module, batch: Batch) -> Tensor | None:
    """Tower features of a batch: from the cache, from its pixels, or none without images."""
    if "features" in batch.pictures:
        return batch.pictures["features"]
    if not batch.pictures:
        return None
    return tower_features(model, batch.pictures["pixels"], batch.pictures.get("sizes"))


@dataclasses.dataclass(frozen=True)
class CheckedImages(Stage):
    """`images.json`: the number of different images of a pool; every one of them was decoded.

    A fit that reads image files batch by batch would find a broken one hours after its start.

    Args:
        seen: names and sizes of the images, as one hash, where they are others than those that were
            decoded first under this pool: on another host, or fetched again.
    """

    kind: ClassVar[str] = "images"

    pool: Pool
    threads: int = volatile(16)
    seen: str | None = volatile(None)

    def corrections(self) -> dict[str, str]:
        return {} if self.seen is None else {"seen": self.seen}

    def compute(self, store: Store, out: Path) -> None:
        """Raises PoolError: images are missing or truncated; names the first, and a file with all
        their rows.
        """
        examples = self.pool.open(store)
        if faults := broken_images(examples, threads=self.threads):
            raise refuse(examples, faults, out / REPORT)
        (out / REPORT).unlink(missing_ok=True)
        note(self.pool, examples, out)
        (out / "images.json").write_text(json.dumps({"images": len(examples.picture_names)}))


def checked_images(pool: Pool, store: Store) -> Rows:
    """The rows of a pool whose images, as they are now, were all decoded once.

    Raises PoolError: an image is broken.
    """
    folder, examples = store.get(CheckedImages(pool)), pool.open(store)
    seen = present_digest(pool, examples)
    if seen != noted_digest(folder):
        store.get(CheckedImages(pool, seen=seen))
    return examples


def pictures_of(
    pool: Pool, start: Stage, processor: Processor, store: Store, *, cached: bool
) -> Pictures:
    """The images of a pool, from the tower's cache or from files that were all decoded before."""
    stage = image_stage(pool, start, cached=cached)
    if isinstance(stage, VisionFeatures):
        return stage.pictures(store)
    return FromFiles(checked_images(pool, store), processor)


def image_stage(pool: Pool, start: Stage, *, cached: bool) -> "VisionFeatures | CheckedImages":
    """The stage that decodes every image of a pool before a fit needs one."""
    return VisionFeatures(pool, start) if cached else CheckedImages(pool)


@dataclasses.dataclass(frozen=True)
class VisionFeatures(Stage):
    """`values.npy`: (images, patches, width) float32, a line for each image of the pool.

    Worth its disk where images are small and used often: 1.2 MB an image with CLIP-L/14-336. For
    families with one tile an image. Every image file is decoded, so a missing or truncated one is
    named before any training.
    """

    kind: ClassVar[str] = "vision"

    pool: Pool
    start: Stage  # a Hugging Face folder with the tower and the image size
    batch: int = 128

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: the model cuts images into tiles; PoolError: an image is broken."""
        examples = self.pool.open(store)
        loaded = load(store.get(self.start))
        if loaded.layout.by_size:
            raise ValueError(
                f"a {loaded.model.config.model_type} cuts an image into several tiles, which are "
                "not cached; set cache_vision=false"
            )
        count = len(examples.picture_names)
        blank = loaded.processor.pictures([Image.new("RGB", (2, 2))])["pixels"]
        values = new_array(
            out / "values.npy",
            np.float32,
            (count, *tower_features(loaded.model, blank).shape[1:]),
        )
        progress = bar(total=count, label="vision", unit="image")
        with progress, all_named(examples, out):
            for start in range(0, count, self.batch):
                stop = min(start + self.batch, count)
                images = (read_picture(examples, number) for number in range(start, stop))
                pixels = prepared(loaded.processor, images)["pixels"]
                features = tower_features(loaded.model, pixels).float().numpy()
                check_finite(features, f"features of images {start} to {stop - 1}")
                values[start:stop] = features
                progress.update(stop - start)
        values.flush()
        note(self.pool, examples, out)

    def pictures(self, store: Store, of: Pool | None = None) -> FromCache:
        """The images by row of this pool, or of another pool whose images are among them.

        Raises PoolError: an image of the other pool is not among them.
        """
        values = np.load(store.get(self) / "values.npy", mmap_mode="r")
        examples = self.pool.open(store)
        if of is None:
            return FromCache(values, examples.shown)
        rows = of.open(store)
        lines = {name: line for line, name in enumerate(examples.picture_names)}
        for name in rows.picture_names:
            if name not in lines:
                raise PoolError(
                    f"{rows.annotations}: image {name!r} is none of {examples.annotations}, whose "
                    "features were to serve both; set `drawings` to null or to a pool that has it"
                )
        line_of = np.array([lines[name] for name in rows.picture_names], dtype=np.int64)
        return FromCache(values, Shown(rows.shown.offsets, line_of[rows.shown.pictures]))
