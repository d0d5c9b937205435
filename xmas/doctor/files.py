"""Checks the files of a pool by reading them as a run does."""

import concurrent.futures
import glob
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from xmas.data.pool import Pool
from xmas.data.rows import PoolError, Rows
from xmas.doctor.finding import Finding
from xmas.store import Made, Store, sha256_of
from xmas.store.progress import bar

_THREADS = 8  # reading and decoding wait for the disk more than for each other
NAMED = 5  # files in a line
_EXTENSIONS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".gif": "GIF", ".webp": "WEBP"}
_NO_FAULTS: Mapping[str, str] = {}


def check_pool(
    pool: Pool, store: Store, *, decode: bool, known: Mapping[str, str] = _NO_FAULTS
) -> Iterator[Finding]:
    """Check the annotations, their conversations, and the images that they name.

    Args:
        decode: decode every image; else check that the files exist.
        known: faults that owners or users know of, by source; part of the remedy.
    """
    subject = f"pool {pool.name}"
    if unmade(pool.annotations, store):
        yield Finding("OK", subject, "not made yet; the first run draws it")
        return
    try:
        examples = pool.open(store)
    except PoolError as error:
        yield Finding("FAIL", subject, str(error), "fix the file, or choose another with pool=")
        return
    pictured, distinct = int(examples.has_image.sum()), len(examples.picture_names)
    yield Finding(
        "OK",
        subject,
        f"{len(examples):,} rows, {pictured:,} with an image ({distinct:,} different), "
        f"{len(examples) - pictured:,} text-only",
    )
    if isinstance(pool.annotations, str):
        sha256 = sha256_of(examples.annotations)
        state = "as configured" if pool.sha256 else "not checked: pool.sha256 is null"
        yield Finding("OK", subject, f"sha256 {sha256}, {state}")
    yield _conversations(subject, examples)
    yield from _images(subject, examples, decode=decode, known=known)


def unmade(path_or_made: str | Made, store: Store) -> bool:
    """Whether a file comes from a stage that has not been computed yet."""
    return isinstance(path_or_made, Made) and not store.path(path_or_made.stage).exists()


def _conversations(subject: str, examples: Rows) -> Finding:
    """Report the longest conversation, and repeated ids, which are no fault."""
    ids: Counter[str] = Counter()
    longest, letters, rounds = 0, -1, 0
    for row in bar(range(len(examples)), label="conversations"):
        row_id = examples[row].get("id")
        if row_id is not None:  # not every format has ids
            ids[str(row_id)] += 1
        conversation = examples.conversation(row)
        characters = sum(len(question) + len(answer) for question, answer in conversation)
        if characters > letters:
            longest, letters, rounds = row, characters, len(conversation)
    repeated = sum(count - 1 for count in ids.values())
    return Finding(
        "OK",
        subject,
        f"the longest conversation is row {longest}: {letters:,} characters in {rounds} rounds; "
        f"{repeated:,} rows repeat an id (rows are known by position)",
    )


def _images(
    subject: str, examples: Rows, *, decode: bool, known: Mapping[str, str]
) -> Iterator[Finding]:
    """Report images that are missing or cannot be decoded, by source, and misnamed ones."""
    first: dict[int, int] = {}
    for row, picture in enumerate(examples.picture.tolist()):
        first.setdefault(picture, row)
    first.pop(-1, None)
    rows = list(first.values())
    paths = [examples.image_path(row) for row in rows]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        checks = threads.map(decode_fault if decode else _missing, paths)
        faults = list(bar(checks, total=len(paths), label="images", unit="image"))
    sources = [str(examples.sources[row]) for row in rows]
    broken: dict[str, list[str]] = {}
    for row, path, source, fault in zip(rows, paths, sources, faults, strict=True):
        if fault is not None:
            broken.setdefault(source, []).append(f"row {row}: {path}: {fault}")
    for source, messages in sorted(broken.items()):
        count = f"{len(messages):,} of {sources.count(source):,}"
        message = f"{count} images of {source} missing or damaged: {_some(messages)}"
        remedy = f"fetch them again below {examples.images}, set pool.images, or remove their rows"
        remedy += f"; known: {known[source]}" if source in known else ""
        yield Finding("FAIL", subject, message, remedy)
    if decode:
        valid = [path for path, fault in zip(paths, faults, strict=True) if fault is None]
        yield from _misnamed(subject, valid)
    if not broken:
        state = "decoded" if decode else "there, not decoded (doctor.images=exists)"
        yield Finding("OK", subject, f"{len(paths):,} images, all {state}")


def _some(messages: list[str]) -> str:
    more = f"; and {len(messages) - NAMED:,} more" if len(messages) > NAMED else ""
    return "; ".join(messages[:NAMED]) + more


def _misnamed(subject: str, paths: list[Path]) -> Iterator[Finding]:
    """Report images whose format is not that of their names, mostly GIFs called .jpg."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        formats = list(threads.map(_format, paths))
    odd = [
        f"{path} is {format_}"
        for path, format_ in zip(paths, formats, strict=True)
        if format_ != _EXTENSIONS.get(path.suffix.lower(), format_)
    ]
    if odd:
        yield Finding(
            "WARN",
            subject,
            f"{len(odd):,} images are not what their names say: {_some(odd)}",
            "they are read by what they are, of a GIF its first picture; leave their names, which "
            "the annotations have, and do not save them again",
        )


def _format(path: Path) -> str:
    from PIL import Image

    with Image.open(path) as image:
        return str(image.format)


def _missing(path: Path) -> str | None:
    if path.is_file():
        return None
    similar = sorted(file.name for file in path.parent.glob(f"{glob.escape(path.stem)}.*"))
    return f"missing, but {similar[0]} is there: rename it" if similar else "missing"


def decode_fault(path: Path) -> str | None:
    """Why an image cannot be used, None if it can. Decodes all of it, since it may be truncated."""
    from PIL import Image

    if missing := _missing(path):
        return missing
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error) or type(error).__name__
    return None
