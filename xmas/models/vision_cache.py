"""Images of a pool for a model: pixels read as needed, or tower features computed once."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from xmas.data.images.broken import all_named, read_picture
from xmas.data.images.pixels import OfRows, OneTileOfSeveral, Processor, prepared
from xmas.data.images.seen import note
from xmas.data.pool import Pool
from xmas.data.rows import PoolError, Rows, Shown
from xmas.models.chat.batches import Batch
from xmas.models.checked_images import CheckedImages, checked_images
from xmas.models.device import device_for
from xmas.models.families import Features
from xmas.models.precision import cast_parameters
from xmas.models.vlm import check_finite, image_features, load, tower_features
from xmas.store import Stage, Store, distributed, volatile
from xmas.store.arrays import ArrayInParts
from xmas.store.progress import bar

_PART_BYTES = 1 << 27  # of features between two saves


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
        if isinstance(self.processor, OfRows):
            of_row: dict[int, list[Image.Image]] = {}
            for row, picture in pictures:
                of_row.setdefault(row, []).append(read_picture(self.examples, picture, row))
            return self.processor.pictures_of_rows(list(of_row.values()))
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


def features_of(
    model: nn.Module, batch: Batch, precision: torch.dtype | None = None
) -> Features | None:
    """`image_features` of a batch."""
    return image_features(model, batch.pictures, precision)


def pictures_of(
    stage: "VisionFeatures | CheckedImages", processor: Processor, store: Store
) -> Pictures:
    """The images of a pool, from the tower's cache or from files that were all decoded before."""
    if isinstance(stage, VisionFeatures):
        return stage.pictures(store)
    return FromFiles(checked_images(stage.pool, store), processor)


@dataclasses.dataclass(frozen=True)
class VisionFeatures(Stage):
    """`values.npy`: (images, patches, width), a line for each image of the pool.

    Worth its disk where images are small and used often: in 16 bits 1.2 MB an image with
    CLIP-L/14-336. For families with one tile an image. Every image file is decoded, so a missing or
    truncated one is named before any training. All ranks share the images; an interrupted attempt
    resumes after its last part.

    Args:
        start: a Hugging Face folder with the tower and the image size.
        batch: images of a forward pass.
        precision: of the tower, that of what uses the features. In 16 bits they are stored as
            float16, which has all digits of a bfloat16 and refuses what is too large for it.
        accelerator: `hardware.accelerator`.
        threads: that decode images.
    """

    kind: ClassVar[str] = "vision"
    together: ClassVar[bool] = True

    pool: Pool
    start: Stage
    batch: int = 128
    precision: str = volatile("float32")
    accelerator: str = volatile("auto")
    threads: int = volatile(8)

    def corrections(self) -> dict[str, str]:
        return {} if self.precision == "float32" else {"precision": self.precision}

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: the model cuts images into tiles; PoolError: an image is broken."""
        examples = self.pool.open(store)
        loaded = load(store.get(self.start))
        if loaded.layout.by_size:
            raise ValueError(
                f"a {loaded.model.config.model_type} cuts an image into several tiles, which are "
                "not cached; set cache_vision=false"
            )
        device, precision = device_for(self.accelerator), getattr(torch, self.precision)
        model = cast_parameters(loaded.model, precision, device)
        blank = loaded.processor.pictures([Image.new("RGB", (2, 2))])["pixels"]
        stored = torch.float32 if self.precision == "float32" else torch.float16
        features_shape = tower_features(model, blank.to(device, precision)).shape[1:]
        shape = (len(examples.picture_names), *features_shape)
        parts = _parts(shape, stored.itemsize, self.batch)
        array = ArrayInParts(out / "values.npy", np.dtype(str(stored)[6:]), shape, parts)
        batches = {
            number: _cut(range(parts[number].start, parts[number].stop), self.batch)
            for number in array.todo
        }

        def decode(images: range) -> Tensor:
            pictures = (read_picture(examples, number) for number in images)
            return prepared(loaded.processor, pictures)["pixels"]

        pixels = _ahead(
            decode,
            [batch for number in array.todo for batch in batches[number]],
            self.threads if device.type == "cuda" else 0,
        )
        total = array.rows(array.own)
        initial = total - array.rows(array.todo)
        with (
            bar(total=total, label="vision", unit="image", initial=initial) as progress,
            all_named(examples, out),
        ):
            for number in array.todo:
                values = []
                for batch in batches[number]:
                    on_device = next(pixels).to(device, precision)
                    values.append(tower_features(model, on_device).to(stored).cpu().numpy())
                    span = f"images {batch[0]} to {batch[-1]} in {self.precision}"
                    check_finite(values[-1], f"features of {span} (cache_vision=false keeps none)")
                    progress.update(len(batch))
                array.write(number, np.concatenate(values))
        array.finish()
        if distributed.rank_and_world()[0] == 0:
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


def _parts(shape: tuple[int, ...], itemsize: int, batch: int) -> list[slice]:
    """Consecutive images, whole batches of them, in parts of about 128 MB."""
    image_bytes = math.prod(shape[1:]) * itemsize
    size = batch * max(1, _PART_BYTES // (batch * image_bytes))
    return [slice(start, min(start + size, shape[0])) for start in range(0, shape[0], size)]


def _cut(images: range, size: int) -> list[range]:
    """Consecutive images, `size` at a time."""
    return [images[start : start + size] for start in range(0, len(images), size)]


def _ahead(
    decode: Callable[[range], Tensor], batches: list[range], threads: int
) -> Iterator[Tensor]:
    """The pixels of every batch; threads decode the next one while the model runs over this one."""
    if not threads:
        yield from map(decode, batches)
        return
    with ThreadPoolExecutor(threads) as decoders:

        def submit(batch: range) -> list[Future[Tensor]]:
            size = max(1, math.ceil(len(batch) / threads))
            return [decoders.submit(decode, chunk) for chunk in _cut(batch, size)]

        following = submit(batches[0]) if batches else []
        for batch in [*batches[1:], range(0)]:
            current, following = following, submit(batch)
            if current:
                yield torch.cat([chunk.result() for chunk in current])
