"""Checks the files of a pool by reading them as a run does."""

import dataclasses
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from xmas.data.faults import Fault, counted_kinds, refusal
from xmas.data.faults import write as write_faults
from xmas.data.images.broken import shown
from xmas.data.pool import Pool
from xmas.data.rows import PoolError, Rows
from xmas.doctor.cleaned import LEFT_OUT, write_cleaned
from xmas.doctor.finding import Finding
from xmas.doctor.images import check_images
from xmas.store import Made, Store, digest
from xmas.store.progress import bar

_NO_FAULTS: Mapping[str, str] = {}


def check_pool(
    pool: Pool,
    store: Store,
    *,
    decode: bool,
    known: Mapping[str, str] = _NO_FAULTS,
    write: str | None = None,
) -> Iterator[Finding]:
    """Check the annotations, their conversations, and the images that they name.

    Args:
        decode: decode every image; else check that the files exist.
        known: faults that owners or users know of, by source; part of the remedy.
        write: a folder for the rows without a fault; None: nothing is written.
    """
    subject = f"pool {pool.name}"
    skips = pool.valid_rows is not None
    pool = pool.whole
    if unmade(pool.annotations, store):
        yield Finding("OK", subject, "not made yet; the first run draws it")
        return
    try:
        examples = pool.open_all(store)
        if not len(examples):
            raise PoolError(
                f"{examples.annotations}: the list is empty; there is nothing to choose"
            )
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
    counts = np.bincount(examples.index.source, minlength=len(examples.index.source_names))
    rows_of = sorted(zip(examples.index.source_names, counts.tolist(), strict=True))
    sources = [f"{name} {count:,}" for name, count in rows_of if count]
    yield Finding("OK", subject, f"sources and their rows: {', '.join(sources)}")
    if isinstance(pool.annotations, str):
        sha256 = examples.identity()
        state = "as configured" if pool.sha256 else "not checked: pool.sha256 is null"
        yield Finding("OK", subject, f"sha256 {sha256}, {state}")
    faults = list(examples.faults)
    level = "WARN" if skips else "FAIL"  # what is left out is no fault of what is used
    if faults:
        refused = refusal(examples.annotations, len(examples), faults)
        yield Finding(level, subject, str(refused), "fix or remove these rows")
    yield from _conversations(subject, examples)
    for finding in check_images(subject, examples, decode=decode, known=known, faults=faults):
        failed = finding.level == "FAIL"
        yield dataclasses.replace(finding, level=level) if failed else finding
    if faults:
        yield _all_faults(subject, pool, store, faults, skips=skips)
    if write is not None:
        folder = Path(write).expanduser()
        file = write_cleaned(examples, faults, folder)
        yield Finding(
            "OK",
            subject,
            f"{len(examples) - len(faults):,} of {len(examples):,} rows are in {file}, their "
            f"records unchanged; the {len(faults):,} others are listed in {folder / LEFT_OUT}",
        )


def _all_faults(
    subject: str, pool: Pool, store: Store, faults: list[Fault], *, skips: bool
) -> Finding:
    """Write all faulty rows to a file."""
    name = f"faults_{digest(pool.identity())}.jsonl"
    report = write_faults(faults, Path(store.root) / "logs" / name)
    return Finding(
        "WARN",
        subject,
        "\n      ".join(
            [
                f"{len(faults):,} rows cannot be used; all of them, with id, image and reason, are "
                f"in {report}",
                *counted_kinds(faults),
            ]
        ),
        "pool.invalid=skip leaves them out" + (", as configured" if skips else ""),
    )


def unmade(path_or_made: str | Made, store: Store) -> bool:
    """Whether a file comes from a stage that has not been computed yet."""
    return isinstance(path_or_made, Made) and not store.path(path_or_made.stage).exists()


def _conversations(subject: str, examples: Rows) -> Iterator[Finding]:
    """Report the longest conversation, and repeated ids, which are no fault.

    A placeholder within the text of a row without an image is read as a word, as LLaVA reads it.
    """
    malformed = {fault.row for fault in examples.faults}
    ids = array("q")  # hashes, as a pool may have tens of millions
    longest, letters, rounds = 0, -1, 0
    literal: list[str] = []
    for row in bar(range(len(examples)), label="conversations"):
        if row in malformed:
            continue
        row_id = examples.row_id(row)
        if row_id is not None:  # not every format has ids
            ids.append(hash(str(row_id)))
        conversation = examples.conversation(row)
        characters = sum(len(question) + len(answer) for question, answer in conversation)
        if characters > letters:
            longest, letters, rounds = row, characters, len(conversation)
        if not examples.has_image[row] and any("<image>" in text for text, _ in conversation):
            literal.append(f"row {row}")
    repeated = len(ids) - len(np.unique(np.frombuffer(ids, dtype=np.int64)))
    if letters >= 0:
        yield Finding(
            "OK",
            subject,
            f"the longest conversation is row {longest}: {letters:,} characters in {rounds} "
            f"rounds; {repeated:,} rows repeat an id (rows are known by position)",
        )
    if literal:
        yield Finding(
            "WARN",
            subject,
            f"{len(literal):,} rows without an image have <image> in a question: {shown(literal)}",
            "there it is a word; if an image was meant, give the rows its path as `image`",
        )
