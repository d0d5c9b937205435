"""Checks the files of a benchmark: present, the expected release, and consistent with each other.

Questions are read as a run reads them, and empty answers to all of them are scored, which needs
every truth: a file of another release, or with a row missing, is found here and not after hours of
generation. A judge gets no requests; it is only checked that it could.
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xmas.data.faults import NAMED
from xmas.doctor.files import unmade
from xmas.doctor.finding import Finding
from xmas.evaluation.facts import facts_of
from xmas.evaluation.given_answers import OfGivenAnswers
from xmas.evaluation.protocol import Benchmark, Judged, Question
from xmas.evaluation.submission import Submitted
from xmas.store import Made, Store, sha256_of


def check_benchmark(
    name: str, benchmark: Benchmark, store: Store, expected: dict[str, str]
) -> Iterator[Finding]:
    """Check a benchmark's judge, files, hashes, number of questions, truth and images.

    Args:
        name: in the suite, for the remedy `~suite.NAME`.
        expected: sha256 by field, of files that have to be a certain release.
    """
    subject, remedy = f"benchmark {name}", f"or leave it out with ~suite.{name}"
    if isinstance(benchmark, Judged):
        try:
            benchmark.check()
        except OSError as error:
            yield Finding("FAIL", subject, str(error), remedy)
    if isinstance(benchmark, OfGivenAnswers):
        yield _given(subject, benchmark, store)
        return
    locations = _locations(benchmark)
    if any(unmade(path_or_made, store) for path_or_made, _ in locations.values()):
        yield Finding("OK", subject, "not made yet; the first run draws it")
        return
    complete = True
    for field, (path_or_made, is_content) in locations.items():
        path = store.find(path_or_made)
        if not path.exists():
            complete = False
            yield _lost(name, benchmark, field, path)
        elif is_content:
            if isinstance(path_or_made, Made) and field not in expected:
                continue  # drawn by a stage, whose key says what it contains
            yield _hash(subject, field, path, expected.get(field))
    if not complete:
        return
    try:
        questions = benchmark.asked(store)
        truth = _check_truth(benchmark, questions, store)
    except (ValueError, OSError) as error:
        yield Finding("FAIL", subject, str(error), remedy)
        return
    yield _questions(subject, benchmark, questions, truth)


def _given(subject: str, benchmark: OfGivenAnswers, store: Store) -> Finding:
    """Rows of the pool, which is checked already: only how many there are."""
    try:
        pool = benchmark.scored_rows()
    except ValueError as error:
        return Finding("FAIL", subject, str(error))
    if unmade(pool.annotations, store):
        return Finding("OK", subject, "rows not held out yet; the first run splits the pool")
    return Finding("OK", subject, f"the answers of {len(pool.open(store)):,} rows held out")


def _locations(benchmark: Any) -> dict[str, tuple[str | Made, bool]]:
    """Paths by field, and whether the file's content is part of the benchmark's identity."""
    locations = {}
    for field in dataclasses.fields(benchmark):
        path_or_made = getattr(benchmark, field.name)
        identity = field.metadata.get("identity")
        if identity in ("content", "none") and isinstance(path_or_made, str | Made):
            locations[field.name] = path_or_made, identity == "content"
    return locations


def _source(benchmark: Benchmark, field: str) -> str | None:
    """Where the official file is published; a `{split}` in it becomes the split's name."""
    source = facts_of(benchmark).sources.get(field)
    return None if source is None else source.format(split=benchmark.split)


def _lost(name: str, benchmark: Benchmark, field: str, path: Path) -> Finding:
    source = _source(benchmark, field)
    return Finding(
        "FAIL",
        f"benchmark {name}",
        f"{field}: there is no {path}",
        (f"it comes from {source}; " if source else "")
        + f"put it there, set suite.{name}.{field}=PATH, or leave it out with ~suite.{name}",
    )


def _hash(subject: str, field: str, path: Path, expected: str | None) -> Finding:
    sha256 = sha256_of(path)
    message = f"{field}: {path}, sha256 {sha256}"
    if expected is None:
        return Finding("OK", subject, f"{message}, not checked: doctor.sha256 does not name it")
    if sha256 != expected:
        remedy = "it is another release; take the expected one, or change doctor.sha256"
        return Finding("FAIL", subject, f"{message}, expected {expected}", remedy)
    return Finding("OK", subject, f"{message}, as expected")


def _check_truth(benchmark: Benchmark, questions: list[Question], store: Store) -> str:
    """Score empty answers, or write them for upload. Raises AnswerError: the files do not match."""
    lines = [
        {
            "question_id": question.question_id,
            "prompt": question.prompt,
            "text": "",
            **question.extra,
        }
        for question in questions
    ]
    if isinstance(benchmark, Judged):
        benchmark.prompts(lines, store)
        return ", each with what a judge is shown"
    if facts_of(benchmark).has_truth:
        benchmark.score(lines, store)
        return ", each with its truth"
    if isinstance(benchmark, Submitted):
        with tempfile.TemporaryDirectory() as folder:
            benchmark.submit(lines, store, Path(folder))
    return ", whose truth only the server has"


def _questions(
    subject: str, benchmark: Benchmark, questions: list[Question], truth: str
) -> Finding:
    images = [question.image for question in questions if isinstance(question.image, Path)]
    distinct = dict.fromkeys(images)
    missing = [path for path in distinct if not path.is_file()]
    has_count = getattr(benchmark, "count", None) is not None
    message = f"{len(questions):,} questions, {benchmark.split}"
    message += ", the expected number" if has_count else ", any number is accepted"
    message += truth
    if missing:
        file_names = ", ".join(map(str, missing[:NAMED]))
        source = _source(benchmark, "images")
        return Finding(
            "FAIL",
            subject,
            f"{message}; {len(missing):,} of {len(distinct):,} images missing: {file_names}",
            (f"they come from {source}; " if source else "")
            + "unpack the benchmark's images there, or set the folder they are in",
        )
    return Finding("OK", subject, f"{message}; images all there")
