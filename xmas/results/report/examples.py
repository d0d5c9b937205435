"""Examples: the rows that a selector ranks first and last, with image, question and answer."""

import base64
import functools
import io
from pathlib import Path

import numpy as np
from jaxtyping import Int

from xmas.data.images.files import open_image
from xmas.data.images.paths import ImageError
from xmas.data.pool import Pool
from xmas.data.rows import Rows
from xmas.evaluation.protocol import LETTER, SHORT
from xmas.results.evidence import Evidence, Line
from xmas.results.report.palette import Palette
from xmas.results.report.pool_rows import pool_rows
from xmas.results.report.svg import joined, tag, text
from xmas.store.index import AbsentError

_LARGEST = 224  # pixels of a side, in the page
_SMALL = 128  # pixels of a side up to which an image keeps its size and shows its pixels
_IMAGES = 160  # in a report, so that it stays small with many selectors
_LETTERS = 150  # of a question or an answer


def strips(evidence: Evidence, palette: Palette, pool: Pool | None, count: int) -> str:
    """Two strips for every selector at the largest budget: kept first, and ranked last.

    Args:
        pool: see `pool_rows`.
        count: images a strip.

    Raises AbsentError: there is no subset, or the pool's rows or all its images cannot be read.
    """
    lines = evidence.largest
    if not lines:
        raise AbsentError("No target was trained on a subset.")
    examples = pool_rows(evidence, pool)
    in_folder = bool(examples.picture_names) and examples.in_file(0)
    if in_folder and not examples.images.is_dir():
        raise AbsentError(f"The pool's images are not there any more ({examples.images}).")
    endings = " and ".join(f"“{ending.strip()}”" for ending in (SHORT, LETTER))
    count = max(2, min(count, _IMAGES // (2 * len(lines))))
    about = tag(
        "p",
        f"At {lines[0].budget}, seed {lines[0].trainings[0].seed}; rows with an image, if the pool "
        "has any. Below each: the first question, and its answer in italics. Left out: "
        f"{endings}.",
        class_="about",
    )
    return about + joined(_pair(evidence, line, examples, palette, count) for line in lines)


def _pair(evidence: Evidence, line: Line, examples: Rows, palette: Palette, count: int) -> str:
    training = line.trainings[0]
    ranking = evidence.index.result(training.ranking, "ranking")
    order = np.load(ranking.file("order.npy"))
    in_subset = np.isin(order, evidence.rows_of(training))
    has_image = examples.has_image[order] | (not examples.has_image.any())
    first = order[in_subset & has_image][:count]
    last = order[~in_subset & has_image][::-1][:count]
    return tag(
        "section",
        tag("h4", tag("span", text(line.row.label), class_=palette[line.selector])),
        _strip("kept, from the top of the ranking", first, examples),
        _strip("left out, from its end", last, examples),
        class_="pair",
    )


def _strip(title: str, rows: Int[np.ndarray, " rows"], examples: Rows) -> str:
    tiles = [_tile(int(row), examples) for row in rows]
    return tag("p", title, class_="strip-title") + tag("div", *tiles, class_="strip")


def _tile(row: int, examples: Rows) -> str:
    rounds = examples.conversation(row)
    question, answer = rounds[0]
    more = f", {len(rounds)} rounds" if len(rounds) > 1 else ""
    pictures = [tag("div", "text only", class_="no-picture")]
    if examples.has_image[row]:
        pictures = [_picture(examples, row, number) for number in examples.shown[row].tolist()]
    return tag(
        "article",
        *pictures,
        tag("p", f"row {row:,} · {examples.sources[row]}{more}", class_="where"),
        tag("p", text(_short(question)), class_="question"),
        tag("p", text(_short(answer)), class_="answer"),
        class_="tile",
    )


def _short(words: str) -> str:
    joined = " ".join(words.removesuffix(SHORT).removesuffix(LETTER).split())
    return joined if len(joined) <= _LETTERS else joined[: _LETTERS - 1].rstrip() + "…"


def _picture(examples: Rows, row: int, number: int) -> str:
    """An image embedded in the page; where it cannot be read, a sentence instead."""
    try:
        address, small = _embedded(examples.picture(number), examples.max_pixels)
    except ImageError as error:
        return tag("div", text(f"cannot be read: {error.reason}"), class_="no-picture")
    return tag("img", src=address, alt=f"image of row {row}", class_="pixels" if small else None)


@functools.lru_cache(maxsize=512)
def _embedded(image: Path | bytes, max_pixels: int) -> tuple[str, bool]:
    """An image as a data address, and whether it is small enough to show its pixels."""
    thumbnail = open_image(image, max_pixels)
    small = max(thumbnail.size) <= _SMALL
    file = io.BytesIO()
    if small:
        thumbnail.save(file, "PNG", optimize=True)
    else:
        thumbnail.thumbnail((_LARGEST, _LARGEST))
        thumbnail.save(file, "JPEG", quality=80, optimize=True)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}", small
