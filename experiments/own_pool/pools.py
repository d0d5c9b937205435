"""A pool from a Debian package with pictures, in a format that users have.

    apt-get download openclipart-svg openclipart-png && mkdir drawings
    for package in openclipart-*.deb; do dpkg-deb -x $package drawings; done
    python experiments/own_pool/pools.py drawings drawings_pool

    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb stamps
    python experiments/own_pool/pools.py stamps photographs_pool

Answers are the texts of the packages, unchanged but for white space; questions are the templates
below. Drawings become two Parquet shards with the pictures inside, on white, since a tenth of them
shows nothing without its transparency. Photographs become a file of JSON lines with `messages`;
the pictures stay in the unpacked package.
"""

import argparse
import io
import json
import random
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image

STAMPS = "usr/share/tuxpaint/stamps"
SHARE = "usr/share/openclipart"
ROWS = 1200  # drawings, drawn at random; an hour on two cores is enough for all that follows
SIDE = 512  # most pixels of a drawing
EVERY = 10  # every tenth picture gives a row of text alone as well
COLOURS = 250  # fewest colours of a photograph, of 32 x 32 x 32
WHAT, DESCRIBE = "What does this drawing show?", "Describe it."
FILED = 'Under which keywords is a drawing called "{}" filed?'
IN_LANGUAGE = {
    "en": "What is this?",
    "de": "Was ist das?",
    "fr": "Qu'est-ce que c'est ?",
    "es": "¿Qué es esto?",
}
TRANSLATE = "In French: {}"

_DC, _RDF = (
    "{http://purl.org/dc/elements/1.1/}",
    "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}",
)
_WORK = "{http://web.resource.org/cc/}Work"
_OF_A_PERSON = re.compile(r"@|http|\bby\b|HASH", re.IGNORECASE)  # who drew it, or a program's error


class Drawing(NamedTuple):
    """A drawing with what its author wrote about it; the path is of the PNG, below `SHARE`/png."""

    path: Path
    title: str
    description: str
    keywords: tuple[str, ...]


def one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def drawings(package: Path) -> list[Drawing]:
    """Those with a title of their own: many have the title of a collection, some a person's name.

    A description that repeats the title, or that several drawings share, becomes "".
    """
    svg, png = package / SHARE / "svg", package / SHARE / "png"
    titled = []
    for path in sorted(svg.rglob("*.svg")):
        work = ElementTree.parse(path).find(f".//{_WORK}")
        picture = path.relative_to(svg).with_suffix(".png")
        if work is None or not (png / picture).exists():
            continue
        title, description = (
            one_line(work.findtext(_DC + tag)) for tag in ("title", "description")
        )
        words = {one_line(keyword.text) for keyword in work.iter(f"{_RDF}li")} - {""}
        titled.append(Drawing(picture, title, description, tuple(sorted(words))))
    titles, descriptions = (
        Counter(drawing[place].casefold() for drawing in titled) for place in (1, 2)
    )
    return [
        drawing._replace(
            description=drawing.description
            if descriptions[drawing.description.casefold()] == 1
            and not _OF_A_PERSON.search(drawing.description)
            and drawing.description.strip(".").casefold() != drawing.title.strip(".").casefold()
            else "",
            keywords=tuple(word for word in drawing.keywords if not _OF_A_PERSON.search(word)),
        )
        for drawing in titled
        if titles[drawing.title.casefold()] == 1 and not _OF_A_PERSON.search(drawing.title)
    ]


def on_white(path: Path) -> bytes:
    """A picture as PNG without transparency, its sides at most `SIDE` pixels.

    One that Pillow refuses as a decompression bomb is left as it is: pools have such pictures.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            image = Image.open(path)
    except Image.DecompressionBombError:
        return path.read_bytes()
    with image:
        rgba = image.convert("RGBA")
    rgba.thumbnail((SIDE, SIDE))
    white = Image.new("RGBA", rgba.size, "white")
    png = io.BytesIO()
    Image.alpha_composite(white, rgba).convert("RGB").save(png, "PNG")
    return png.getvalue()


def drawing_rows(package: Path) -> Iterator[dict]:
    """Columns `images`, `texts` and `source`, as datasets of the hub have them."""
    titled = drawings(package)
    chosen = random.Random(0).sample(titled, min(ROWS, len(titled)))
    for number, drawing in enumerate(sorted(chosen)):
        turns = [{"user": WHAT, "assistant": drawing.title}]
        if drawing.description:
            turns.append({"user": DESCRIBE, "assistant": drawing.description})
        content = on_white(package / SHARE / "png" / drawing.path)
        images = [{"bytes": content, "path": drawing.path.name}]
        yield {"images": images, "texts": turns, "source": drawing.path.parts[0]}
        if number % EVERY == 0 and drawing.keywords:
            filed = {"user": FILED.format(drawing.title), "assistant": ", ".join(drawing.keywords)}
            yield {"images": [], "texts": [filed], "source": "keywords"}


def is_photograph(path: Path) -> bool:
    """Whether a picture has many colours where it is opaque and no folder calls it a cartoon."""
    if "cartoon" in path.parts:
        return False
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGBA")).reshape(-1, 4)
    opaque = pixels[pixels[:, 3] == 255][:, :3].astype(np.int64) // 8
    return len(np.unique(opaque @ [1024, 32, 1])) >= COLOURS


def captions(path: Path) -> dict[str, str]:
    """The description of a stamp by language; the first line of its file is English."""
    english, *others = path.read_text(encoding="utf-8").splitlines()
    languages = dict(line.split(".utf8=", 1) for line in others if ".utf8=" in line)
    texts = {"en": english} | languages
    return {name: one_line(texts[name]) for name in IN_LANGUAGE if one_line(texts.get(name))}


def conversation(*turns: tuple[str, str]) -> list[dict]:
    roles = ("user", "assistant")
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(roles, turn, strict=True)
    ]


def photograph_rows(package: Path) -> Iterator[dict]:
    """A row for every language of a photograph; of every fifth one, a conversation of them all."""
    stamps = package / STAMPS
    paths = [path for path in sorted(stamps.rglob("*.png")) if path.with_suffix(".txt").exists()]
    for number, path in enumerate(filter(is_photograph, paths)):
        texts = captions(path.with_suffix(".txt"))
        turns = [(IN_LANGUAGE[name], text) for name, text in texts.items()]
        image = path.relative_to(stamps).as_posix()
        for part in [turns] if number % 5 == 0 else [[turn] for turn in turns]:
            (question, answer), *others = part
            messages = conversation((f"<image>{question}", answer), *others)
            yield {"messages": messages, "images": [image]}
        if number % EVERY == 0 and "fr" in texts:
            yield {"messages": conversation((TRANSLATE.format(texts["en"]), texts["fr"]))}


def write_shards(rows: list[dict], out: Path) -> None:
    """Two Parquet shards, named as the hub names them."""
    import pyarrow
    import pyarrow.parquet

    turn = pyarrow.struct([("user", pyarrow.string()), ("assistant", pyarrow.string())])
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema(
        [
            ("images", pyarrow.list_(image)),
            ("texts", pyarrow.list_(turn)),
            ("source", pyarrow.string()),
        ]
    )
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        table = pyarrow.Table.from_pylist(part, schema)
        pyarrow.parquet.write_table(table, out / f"train-{number:05}-of-00002.parquet")


def make(package: Path, out: Path) -> str:
    """The pool of an unpacked package; a sentence about it."""
    out.mkdir(parents=True, exist_ok=True)
    if (package / STAMPS).is_dir():
        rows = list(photograph_rows(package))
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / "photographs.jsonl").write_text("".join(lines), encoding="utf-8")
        where = f"pool.annotations={out}/photographs.jsonl pool.images={package / STAMPS}"
    elif (package / SHARE / "svg").is_dir() and (package / SHARE / "png").is_dir():
        rows = list(drawing_rows(package))
        write_shards(rows, out)
        where = f"pool.path={out}"
    else:
        raise SystemExit(
            f"{package}: neither {STAMPS} nor {SHARE}/svg and /png is in it; unpack there "
            "tuxpaint-stamps-default, or both openclipart-svg and -png, with dpkg-deb -x"
        )
    pictured = sum(bool(row.get("images")) for row in rows)
    return f"{len(rows)} rows, {len(rows) - pictured} of them text alone: pool=files {where}"


def stand_in(package: Path) -> None:
    """Files as those of both packages, with pictures of noise."""
    noise = np.random.default_rng(0).integers(0, 255, (12, 40, 40, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        stamp = package / "stamps" / STAMPS / "animals" / f"{number}.png"
        drawing = package / "drawings" / SHARE / "png" / "food" / f"{number}.png"
        for path in (stamp, drawing):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        texts = f"Animal {number}.\nde.utf8=Tier {number}.\nfr.utf8=Animal {number}.\n"
        stamp.with_suffix(".txt").write_text(texts, encoding="utf-8")
        svg = package / "drawings" / SHARE / "svg" / "food" / f"{number}.svg"
        svg.parent.mkdir(parents=True, exist_ok=True)
        work = f"<w:Work><d:title>Dish {number}</d:title><r:li>food</r:li></w:Work>"
        spaces = " ".join(
            f'xmlns:{name}="{space.strip("{}")}"'
            for name, space in (("w", _WORK.partition("}")[0]), ("d", _DC), ("r", _RDF))
        )
        svg.write_text(f"<svg {spaces}>{work}</svg>", encoding="utf-8")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("package", type=Path, nargs="?", help="the folder of an unpacked package")
    options.add_argument("out", type=Path, nargs="?", help="the folder of the pool")
    options.add_argument("--tiny", action="store_true", help="pools of pictures made here")
    chosen = options.parse_args()
    if chosen.tiny:
        with tempfile.TemporaryDirectory() as folder:
            stand_in(Path(folder))
            for kind in ("stamps", "drawings"):
                print(make(Path(folder) / kind, Path(folder) / f"{kind}_pool"))
    elif chosen.package is None or chosen.out is None:
        options.error("PACKAGE and OUT are missing")
    else:
        print(make(chosen.package, chosen.out))


if __name__ == "__main__":
    main()
