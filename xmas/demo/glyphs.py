"""Glyphs of everyday things from the icon fonts that `qtawesome` installs.

Phosphor is held out: no model is trained on its drawings, so a benchmark of them tests what a thing
looks like and not a memorised glyph. Versions 5 and 6 of a font are near-copies and therefore on
the same side of the split. The fonts are read as files: importing `qtawesome` needs Qt.
"""

import functools
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from xmas.demo.concepts import GLYPH_NAMES

_EM = 96  # pixels a glyph is rendered at before it is scaled down


@dataclass(frozen=True)
class Family:
    """A font as `qtawesome` 1.4.2 has it, and how it marks the variants of a name."""

    name: str
    prefix: str  # before the colon in GLYPH_NAMES
    file: str
    version: str
    variants: tuple[str, ...] = ("",)
    held_out: bool = False

    @property
    def font(self) -> str:
        return f"{self.file}-{self.version}.ttf"

    @property
    def charmap(self) -> str:
        return f"{self.file}-charmap-{self.version}.json"


FAMILIES = (
    Family("mdi6", "mdi", "materialdesignicons6-webfont", "6.9.96", ("", "-outline")),
    Family("mdi5", "mdi", "materialdesignicons5-webfont", "5.9.55", ("", "-outline")),
    Family("fa6_solid", "fa", "fontawesome6-solid-webfont", "6.7.2"),
    Family("fa6_regular", "fa", "fontawesome6-regular-webfont", "6.7.2"),
    Family("fa5_solid", "fa", "fontawesome5-solid-webfont", "5.15.4"),
    Family("fa5_regular", "fa", "fontawesome5-regular-webfont", "5.15.4"),
    Family("remix", "ri", "remixicon", "2.5.0", ("-line", "-fill")),
    Family("codicon", "cod", "codicon", "0.0.36", ("", "-filled")),
    Family("elusive", "ei", "elusiveicons-webfont", "2.0"),
    Family("phosphor", "ph", "phosphor", "1.3.0", ("", "-bold", "-fill"), held_out=True),
)


@dataclass(frozen=True)
class Glyph:
    """One drawing of a thing: its font and its code there."""

    concept: str
    family: str
    name: str
    code: int


def folder_of(package: str) -> Path:
    """The folder of an installed package, found without importing it.

    Raises ModuleNotFoundError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"{package} is not installed; the demo draws from its files: pip install {package}"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def family(name: str) -> Family:
    """The family of that name."""
    return next(entry for entry in FAMILIES if entry.name == name)


@functools.cache
def _charmap(charmap: str) -> dict[str, int]:
    table = json.loads((folder_of("qtawesome") / "fonts" / charmap).read_text())
    return {name: int(code, 16) for name, code in table.items()}


@functools.cache
def glyphs() -> dict[str, tuple[Glyph, ...]]:
    """Every thing with all its glyphs, training families first, in a fixed order."""
    by_concept: dict[str, tuple[Glyph, ...]] = {}
    for line in GLYPH_NAMES.replace("\n  ", " ").strip().splitlines():
        concept, aliases = line.split(": ")
        by_concept[concept] = tuple(_lookup(concept, aliases.split()))
    return by_concept


def _lookup(concept: str, aliases: Sequence[str]) -> list[Glyph]:
    matches = []
    for entry in FAMILIES:
        codes = _charmap(entry.charmap)
        codes_used = set()
        for alias in aliases:
            prefix, _, name = alias.rpartition(":")
            if prefix not in ("", entry.prefix):
                continue
            for variant in entry.variants:
                code = codes.get(name + variant)
                if (
                    code is not None and code not in codes_used
                ):  # fonts have several names for a glyph
                    codes_used.add(code)
                    matches.append(Glyph(concept, entry.name, name + variant, code))
    return matches


@functools.cache
def concepts(count: int) -> tuple[str, ...]:
    """The first `count` things that have three training drawings and one held-out drawing.

    Raises ValueError: `count` is more than can be drawn, or under 12: questions about absent
    things need as many.
    """
    drawable = [
        name
        for name, drawings in glyphs().items()
        if sum(family(glyph.family).held_out for glyph in drawings) >= 1
        and sum(not family(glyph.family).held_out for glyph in drawings) >= 3
    ]
    if not 12 <= count <= len(drawable):
        raise ValueError(f"{count} concepts asked for; between 12 and {len(drawable)} can be drawn")
    return tuple(drawable[:count])


@functools.cache
def drawings(concept: str, held_out: bool) -> tuple[Glyph, ...]:
    """The glyphs of a thing on one side of the split."""
    return tuple(glyph for glyph in glyphs()[concept] if family(glyph.family).held_out == held_out)


@functools.cache
def _font(file: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(folder_of("qtawesome") / "fonts" / file, _EM)


@functools.cache
def mask(glyph: Glyph, size: int) -> Image.Image:
    """The glyph as a grey mask whose longer side is `size` pixels, cut to its ink."""
    canvas = Image.new("L", (3 * _EM, 3 * _EM))
    font = _font(family(glyph.family).font)
    ImageDraw.Draw(canvas).text((_EM, _EM), chr(glyph.code), font=font, fill=255)
    ink = canvas.crop(canvas.getbbox())
    scale = size / max(ink.size)
    return ink.resize(
        (max(1, round(ink.width * scale)), max(1, round(ink.height * scale))),
        Image.Resampling.LANCZOS,
    )
