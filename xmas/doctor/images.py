"""Checks the images of a pool: that each can be read, and that a model sees something in it."""

import concurrent.futures
import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from xmas.data.faults import Fault
from xmas.data.images.bounds import file_of
from xmas.data.images.broken import image_faults, shown
from xmas.data.images.errors import ImageError, image_error
from xmas.data.images.files import decoded
from xmas.data.images.paths import REPLACE
from xmas.data.rows import Rows
from xmas.doctor.finding import Finding
from xmas.store.progress import bar

_THREADS = 8  # reading and decoding wait for the disk more than for each other
_EXTENSIONS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".gif": "GIF", ".webp": "WEBP"}
_COPIES = 10  # names of one and the same file from which it looks like a placeholder


@dataclasses.dataclass(frozen=True)
class Look:
    """What one image file is. `flat`: how its conversion to RGB loses what it shows."""

    error: ImageError | None
    format: str | None = None
    flat: str | None = None


def check_images(
    subject: str, examples: Rows, *, decode: bool, known: Mapping[str, str], faults: list[Fault]
) -> Iterator[Finding]:
    """Report images that are missing or cannot be decoded, by source, and odd ones.

    Args:
        decode: decode every image; else check that the files exist.
        known: faults that owners or users know of, by source; part of the remedy.
        faults: to which every row with such an image is added.
    """
    first = examples.shown.row_of_image[examples.shown.first_image]
    checked = np.argsort(first, kind="stable")
    if not decode:  # those in the pool's own files are in its index, so they are there
        checked = checked[~np.asarray(examples.index.stored)[checked]]
    paths = {picture: _place(examples, picture) for picture in checked.tolist()}
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        check = functools.partial(look if decode else _there, examples)
        checks = threads.map(check, paths)
        looks = dict(
            zip(paths, bar(checks, total=len(paths), label="images", unit="image"), strict=True)
        )
    errors = {picture: look.error for picture, look in looks.items() if look.error is not None}
    faults += image_faults(examples, errors)
    names, source_of = examples.index.source_names, examples.index.source[first]
    sources = np.bincount(source_of, minlength=len(names))
    fetch = f"fetch them again below {examples.images}, set pool.images, or remove their rows"
    broken: dict[str, list[int]] = {}
    for picture in errors:
        broken.setdefault(names[int(source_of[picture])], []).append(picture)
    for source, pictures in sorted(broken.items()):
        kinds = Counter(errors[picture].kind for picture in pictures)
        remedies = dict.fromkeys(errors[it].remedy.replace(REPLACE, fetch) for it in pictures)
        messages = [f"row {first[it]}: {paths[it]}: {errors[it].reason}" for it in pictures]
        yield Finding(
            "FAIL",
            subject,
            f"{len(pictures):,} of {sources[names.index(source)]:,} images of {source} missing or "
            f"damaged: {shown(messages)} "
            f"({', '.join(f'{kind}: {n:,}' for kind, n in kinds.most_common())})",
            "; ".join(remedies) + (f"; known: {known[source]}" if source in known else ""),
        )
    if decode:
        valid = {paths[picture]: look for picture, look in looks.items() if look.error is None}
        yield from _misnamed(subject, valid)
        yield from _flat(subject, valid)
    files = [it for it in paths if it not in errors and examples.in_file(it)]
    yield from _placeholders(subject, [paths[it] for it in files])
    if not errors:
        state = "decoded" if decode else "there, not decoded (doctor.images=exists)"
        yield Finding("OK", subject, f"{len(first):,} images, all {state}")


def _place(examples: Rows, picture: int) -> Path:
    """Where a picture is, for messages: its file, or its name in the pool's own."""
    folder = examples.images if examples.in_file(picture) else examples.annotations
    return folder / examples.picture_names[picture]


def _there(examples: Rows, picture: int) -> Look:
    try:
        image = examples.picture(picture)
        try:
            file_of(image, examples.max_pixels).close()
        except OSError as error:
            raise image_error(image, error) from error
    except ImageError as error:
        return Look(error)
    return Look(None)


def look(examples: Rows, picture: int) -> Look:
    """Decode all of an image file, since it may be cut short."""
    try:
        with decoded(examples.picture(picture), examples.max_pixels) as image:
            return Look(None, image.format, _loss(image))
    except ImageError as error:
        return Look(error)


def _loss(image: Image.Image) -> str | None:
    """How the conversion to RGB, which is LLaVA's, loses what an image shows; None if it does not.

    Values over 255 are cut off, fractions too, and transparency is dropped, not drawn.
    """
    rgb = image.convert("RGB")
    if image.mode.startswith("I") or image.mode == "F":
        low, high = image.getextrema()
        assert isinstance(low, int | float)
        assert isinstance(high, int | float)
        if high > 255 or (image.mode == "F" and high <= 1 and low != high):
            return f"values from {low:g} to {high:g} in mode {image.mode}, where 0 to 255 are shown"
        return None
    if not (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
        return None
    alpha = image.convert("RGBA").getchannel("A").getextrema()
    flat = all(len(set(band.getextrema())) == 1 for band in rgb.split())
    if alpha[0] != alpha[1] and flat:
        return "all that it shows is in its transparency, which is dropped"
    return None


def _misnamed(subject: str, looks: Mapping[Path, Look]) -> Iterator[Finding]:
    """Report images whose format is not that of their names, mostly GIFs called .jpg."""
    odd = [
        f"{path} is {look.format}"
        for path, look in looks.items()
        if look.format != _EXTENSIONS.get(path.suffix.lower(), look.format)
    ]
    if odd:
        yield Finding(
            "WARN",
            subject,
            f"{len(odd):,} images are not what their names say: {shown(odd)}",
            "they are read by what they are, of a GIF its first picture; leave their names, which "
            "the annotations have, and do not save them again",
        )


def _flat(subject: str, looks: Mapping[Path, Look]) -> Iterator[Finding]:
    flat = [f"{path}: {look.flat}" for path, look in looks.items() if look.flat]
    if flat:
        yield Finding(
            "WARN",
            subject,
            f"{len(flat):,} images lose what they show when converted to RGB: {shown(flat)}",
            "convert the files to 8 bits on an opaque ground, or remove their rows",
        )


def _placeholders(subject: str, paths: list[Path]) -> Iterator[Finding]:
    """Report one picture under many names: what servers send for a photo that is gone.

    Only files of equal size are read.
    """
    by_size: dict[int, list[Path]] = {}
    for path in paths:
        by_size.setdefault(path.stat().st_size, []).append(path)
    by_content: dict[bytes, list[Path]] = {}
    for same_size in by_size.values():
        if len(same_size) >= _COPIES:
            for path in same_size:
                content = hashlib.sha256(path.read_bytes()).digest()
                by_content.setdefault(content, []).append(path)
    for copies in by_content.values():
        if len(copies) >= _COPIES:
            yield Finding(
                "WARN",
                subject,
                f"{len(copies):,} images are one and the same file: {shown(copies)}",
                "open one; a placeholder of the server it came from shows nothing of the "
                "conversation: fetch the images again, or remove their rows",
            )
