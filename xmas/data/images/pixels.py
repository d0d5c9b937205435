"""Turn images into the pixels of a vision tower."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

_TOGETHER = 1 << 24  # pixels, decoded, that wait for a processor: 50 MB in RGB
FILE = "images.json"  # in a model folder: the settings of `SquareImages`


@runtime_checkable
class Processor(Protocol):
    """Turns images into the tensors of a batch."""

    def pictures(self, images: list[Image.Image]) -> dict[str, Tensor]:
        """The tensors of some images.

        `pixels` (tiles, 3, height, width): the tiles of all images, in order. `sizes` (images, 2),
        height and width in pixels, where the model arranges tiles by the size of the image.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the files from which the same processor can be loaded."""
        ...


@runtime_checkable
class OneTileOfSeveral(Protocol):
    """A processor that cuts an image into tiles only where its row has no other image."""

    def pictures_of_row(self, images: list[Image.Image]) -> dict[str, Tensor]:
        """As `Processor.pictures`, of the several images of one row."""
        ...


@runtime_checkable
class OfRows(Protocol):
    """A processor that takes the images of a batch row by row, and pads them to each other."""

    def pictures_of_rows(self, rows: Sequence[Sequence[Image.Image]]) -> dict[str, Tensor]:
        """As `Processor.pictures`, of the images of each row, under the names of the model."""
        ...


def prepared(processor: Processor, images: Iterable[Image.Image]) -> dict[str, Tensor]:
    """`processor.pictures` of images that come one by one, few large ones in memory at a time."""
    parts = [processor.pictures(batch) for batch in _batches(images)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _batches(images: Iterable[Image.Image]) -> Iterator[list[Image.Image]]:
    batch: list[Image.Image] = []
    pixels = 0
    for image in images:
        batch.append(image)
        pixels += image.width * image.height
        if pixels >= _TOGETHER:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


class SquareImages:
    """A square of `size` pixels from an image, its channels normalised.

    Args:
        size: of a side of the square, in pixels.
        aspect: `pad`: padded to a square with the mean colour, then resized: LLaVA's
            `expand2square`, bit for bit. `crop`: shortest edge resized, then cropped at the centre:
            CLIP's preprocessing, and what TinyLLaVA calls "square".
        mean: of red, green and blue in [0, 1], which becomes 0; None: of CLIP's training images.
        std: of the channels, which becomes 1; None: CLIP's.

    Raises:
        ValueError: another `aspect`.
    """

    def __init__(
        self,
        size: int,
        aspect: str = "pad",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        if aspect not in ("pad", "crop"):
            raise ValueError(f"aspect {aspect!r} is neither pad nor crop")
        self.size = size
        self.aspect = aspect
        self.normalisation = {
            name: list(channels)
            for name, channels in (("mean", mean), ("std", std))
            if channels is not None
        }
        self._clip = CLIPImageProcessorPil(
            size={"shortest_edge": size},
            crop_size={"height": size, "width": size},
            **self.hub_normalisation,
        )
        self._background = tuple(int(mean * 255) for mean in self._clip.image_mean)

    def __call__(self, images: list[Image.Image]) -> Float[Tensor, "images 3 size size"]:
        rgb = [image.convert("RGB") for image in images]
        if self.aspect == "pad":
            rgb = [self._square(image) for image in rgb]
        return self._clip(rgb, return_tensors="pt")["pixel_values"]

    def pictures(self, images: list[Image.Image]) -> dict[str, Tensor]:
        return {"pixels": self(images)}

    def save(self, folder: Path) -> None:
        settings = {"size": self.size, "aspect": self.aspect, **self.normalisation}
        (folder / FILE).write_text(json.dumps(settings))

    @classmethod
    def load(
        cls, folder: Path, changes: Mapping[str, Any] = MappingProxyType({})
    ) -> "SquareImages":
        """The processor that `save` wrote, with some settings changed."""
        return cls(**(json.loads((folder / FILE).read_text()) | dict(changes)))

    @property
    def hub_normalisation(self) -> dict[str, Any]:
        """What is not CLIP's, as transformers' image processors name it."""
        return {f"image_{name}": channels for name, channels in self.normalisation.items()}

    def _square(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if width == height:
            return image
        side = max(width, height)
        square = Image.new("RGB", (side, side), self._background)
        square.paste(image, ((side - width) // 2, (side - height) // 2))
        return square
