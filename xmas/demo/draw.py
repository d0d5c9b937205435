"""Scenes of one to nine marks, and how they become pictures of 64 x 64 pixels."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from xmas.demo.material import COLOURS, DIGITS, WORDS, Mark, Material, mask_of

SIDE = 64  # pixels


@dataclass(frozen=True)
class Item:
    """A mark at its place: the top left corner of its mask, in pixels."""

    mark: Mark
    colour: str
    shade: str
    size: int
    x: int
    y: int

    @property
    def name(self) -> str:
        return self.mark.name


@dataclass(frozen=True)
class Scene:
    """The content of a picture; `relation` is the place of the first of two items."""

    items: tuple[Item, ...]
    background: str
    relation: str | None = None  # left, above

    def describe(self) -> dict:
        """The content as plain data."""
        return {
            "kind": self.items[0].mark.kind,
            "names": [item.name for item in self.items],
            "styles": [item.mark.style for item in self.items],
            "colours": [item.colour for item in self.items],
            "shades": [item.shade for item in self.items],
            "sizes": [item.size for item in self.items],
            "places": [[item.x, item.y] for item in self.items],
            "background": self.background,
            "relation": self.relation,
        }


def pick(options, rng: np.random.Generator):
    """One of `options`, at random."""
    return options[int(rng.integers(len(options)))]


def shuffled(options, rng: np.random.Generator) -> list:
    return [options[int(place)] for place in rng.permutation(len(options))]


def _along(low: int, high: int, step: int, rng: np.random.Generator) -> int:
    """A place in [low, high] on the grid: a multiple of four plus `step`."""
    first = low + (step - low) % 4
    return first if first > high else pick(range(first, high + 1, 4), rng)


def _place(
    mark: Mark,
    box: tuple[int, int, int, int],
    sizes: range,
    colour: str,
    of: Material,
    rng: np.random.Generator,
) -> Item:
    """A mark somewhere in `box` (left, top, right, bottom)."""
    x_min, y_min, x_max, y_max = box
    size = pick(sizes, rng)
    first = x_min + (of.step - x_min) % 4
    while first + mask_of(mark, size).width > x_max:  # long words are set smaller
        size -= 4
    wide, high = mask_of(mark, size).size
    x = _along(x_min, x_max - wide, of.step, rng)
    y = _along(y_min, y_max - high, of.step, rng)
    return Item(mark, colour, pick(of.shades(colour), rng), size, x, y)


def one(of: Material, name: str, rng: np.random.Generator, *, colour: str | None = None) -> Scene:
    """A single thing, large and near the middle: with four patches per side it has little room."""
    mark = pick(of.marks("icon", name), rng)
    colour = colour or pick(COLOURS, rng)
    item = _place(mark, (4, 4, 60, 60), of.sizes(48, 56), colour, of, rng)
    return Scene((item,), pick(of.backgrounds(), rng))


def two(of: Material, rng: np.random.Generator) -> Scene:
    """Two different things of different colours, one left of or above the other."""
    first, second = shuffled(of.concepts, rng)[:2]
    tints = shuffled(COLOURS, rng)[:2]
    relation = pick(("left", "above"), rng)
    boxes = {
        "left": ((1, 8, 32, 56), (32, 8, 63, 56)),
        "above": ((8, 1, 56, 32), (8, 32, 56, 63)),
    }[relation]
    items = tuple(
        _place(pick(of.marks("icon", name), rng), box, of.sizes(20, 28), tint, of, rng)
        for name, box, tint in zip((first, second), boxes, tints, strict=True)
    )
    return Scene(items, pick(of.backgrounds(), rng), relation)


def several(of: Material, name: str, count: int, rng: np.random.Generator) -> Scene:
    """`count` equal drawings of a thing, one to nine, in the cells of a grid.

    Places are any that the cells allow, on both sides of the split.
    """
    mark = pick(of.marks("icon", name), rng)
    colour = pick(COLOURS, rng)
    shade = pick(of.shades(colour), rng)
    grid = 2 if count <= 4 else 3
    cell = SIDE // grid
    size = pick(of.sizes(20, 28), rng) if grid == 2 else pick(of.sizes(12, 18), rng)
    wide, high = mask_of(mark, size).size
    items = []
    for place in sorted(int(cell) for cell in rng.permutation(grid * grid)[:count]):
        cell_x, cell_y = place % grid * cell, place // grid * cell
        x = cell_x + int(rng.integers(1, cell - wide))
        y = cell_y + int(rng.integers(1, cell - high))
        items.append(Item(mark, colour, shade, size, x, y))
    return Scene(tuple(items), pick(of.backgrounds(), rng))


def written(of: Material, kind: str, rng: np.random.Generator) -> Scene:
    """A handwritten digit or a printed word."""
    name = pick(DIGITS if kind == "digit" else WORDS, rng)
    colour = pick([tint for tint in COLOURS if tint not in ("yellow", "pink")], rng)
    sizes = of.sizes(48, 56) if kind == "digit" else of.sizes(20, 28)
    box = (4, 4, 60, 60) if kind == "digit" else (1, 1, 63, 63)
    item = _place(pick(of.marks(kind, name), rng), box, sizes, colour, of, rng)
    return Scene((item,), pick(of.backgrounds(), rng))


def nearly(scene: Scene, of: Material, rng: np.random.Generator) -> Scene:
    """A near-copy of a scene of one item: the drawing shifted, in another shade of its colour."""
    (item,) = scene.items
    ink = mask_of(item.mark, item.size).size
    x, y = (
        moved if of.step <= (moved := old + pick((-4, 0, 4), rng)) <= SIDE - length else old
        for old, length in zip((item.x, item.y), ink, strict=True)
    )
    shade = pick(of.shades(item.colour), rng)
    return replace(scene, items=(replace(item, shade=shade, x=x, y=y),))


def picture(scene: Scene) -> Image.Image:
    """The scene as an RGB image of 64 x 64 pixels."""
    image = Image.new("RGB", (SIDE, SIDE), scene.background)
    for item in scene.items:
        image.paste(item.shade, (item.x, item.y), mask_of(item.mark, item.size))
    return image


def save(scene: Scene, path: Path) -> None:
    """Write the picture of a scene, as PNG or JPEG by the suffix of `path`."""
    if path.suffix == ".jpg":
        picture(scene).save(path, quality=95, subsampling=0)
    else:
        picture(scene).save(path, compress_level=1)
