"""The files of a pool, looked at as a run would read them."""

import concurrent.futures
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from xmas.doctor.finding import Finding
from xmas.pool import Examples, Pool, PoolError
from xmas.progress import bar
from xmas.store import Made, Store, sha256_of

_THREADS = 8  # reading and decoding wait for the disk more than for each other
NAMED = 5  # files in a line


def check_pool(pool: Pool, store: Store, *, decode: bool) -> Iterator[Finding]:
    """The annotations, what they hold, and the images they name."""
    subject = f"pool {pool.name}"
    if unmade(pool.annotations, store):
        yield Finding("OK", subject, "not made yet; the first run draws it")
        return
    try:
        examples = pool.open(store)
    except PoolError as error:
        yield Finding("FAIL", subject, str(error), "mend the file, or name another with pool=")
        return
    pictured, distinct = int(examples.has_image.sum()), len(examples.picture_names)
    yield Finding(
        "OK",
        subject,
        f"{len(examples):,} rows, {pictured:,} with an image ({distinct:,} different), "
        f"{len(examples) - pictured:,} text-only",
    )
    if isinstance(pool.annotations, str):
        found = sha256_of(examples.annotations)
        state = "as configured" if pool.sha256 else "not checked: pool.sha256 is null"
        yield Finding("OK", subject, f"sha256 {found}, {state}")
    yield _conversations(subject, examples)
    yield from _images(subject, examples, decode=decode)


def unmade(place: str | Made, store: Store) -> bool:
    return isinstance(place, Made) and not store.path(place.stage).exists()


def _conversations(subject: str, examples: Examples) -> Finding:
    """Repeated ids, which are no fault, and the longest conversation."""
    ids: Counter[str] = Counter()
    longest, letters, rounds = 0, -1, 0
    for row in bar(range(len(examples)), label="conversations"):
        record = examples[row]
        ids[str(record.get("id"))] += 1
        said = sum(len(turn["value"]) for turn in record["conversations"])
        if said > letters:
            longest, letters, rounds = row, said, len(record["conversations"]) // 2
    repeated = sum(count - 1 for count in ids.values())
    return Finding(
        "OK",
        subject,
        f"the longest conversation is row {longest}: {letters:,} characters in {rounds} rounds; "
        f"{repeated:,} rows repeat an id (rows are known by position)",
    )


def _images(subject: str, examples: Examples, *, decode: bool) -> Iterator[Finding]:
    """Images that are missing or cannot be decoded, with the first row that wants them."""
    first: dict[int, int] = {}
    for row, picture in enumerate(examples.picture.tolist()):
        first.setdefault(picture, row)
    first.pop(-1, None)
    rows = list(first.values())
    paths = [examples.image_path(row) for row in rows]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        looked = threads.map(decode_fault if decode else _missing, paths)
        faults = list(bar(looked, total=len(paths), label="images", unit="image"))
    broken = [
        (row, path, fault)
        for row, path, fault in zip(rows, paths, faults, strict=True)
        if fault is not None
    ]
    if not broken:
        done = "decoded" if decode else "there, not decoded (doctor.images=exists)"
        yield Finding("OK", subject, f"{len(paths):,} images, all {done}")
        return
    listed = "; ".join(f"row {row}: {path}: {fault}" for row, path, fault in broken[:NAMED])
    more = f"; and {len(broken) - NAMED:,} more" if len(broken) > NAMED else ""
    yield Finding(
        "FAIL",
        subject,
        f"{len(broken):,} of {len(paths):,} images missing or damaged: {listed}{more}",
        f"fetch them again below {examples.images}, set pool.images, or remove their rows",
    )


def _missing(path: Path) -> str | None:
    return None if path.is_file() else "missing"


def decode_fault(path: Path) -> str | None:
    """Why an image cannot be used, None if it can. All of it is decoded: truncation shows last."""
    from PIL import Image

    if not path.is_file():
        return "missing"
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error) or type(error).__name__
    return None
