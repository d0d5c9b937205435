"""The files of a benchmark: what is there, where the rest comes from, and whether it fits together.

The questions are read as a run reads them, and empty answers to all of them are scored, which needs
every truth: a file of another release, or one row short, shows here and not after a night. A judge
is not asked, only whether it could be.
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xmas.doctor.files import NAMED, unmade
from xmas.doctor.finding import Finding
from xmas.evaluation.facts import facts_of
from xmas.evaluation.protocol import Benchmark, Judged, Question
from xmas.evaluation.submission import Submitted
from xmas.store import Store, sha256_of


def check_benchmark(
    name: str, benchmark: Benchmark, store: Store, expected: dict[str, str]
) -> Iterator[Finding]:
    """Files with their hashes, `expected` by field; the numbers of questions; truths; images; the
    judge.
    """
    subject = f"benchmark {name}"
    if isinstance(benchmark, Judged):
        try:
            benchmark.check()
        except OSError as error:
            yield Finding("FAIL", subject, str(error), f"or leave it out with ~suite.{name}")
    fields: Any = benchmark  # a frozen dataclass, which a protocol cannot say
    kinds = {field.name: field.metadata.get("identity") for field in dataclasses.fields(fields)}
    places = {
        field: getattr(benchmark, field)
        for field, kind in kinds.items()
        if kind in ("content", "none") and getattr(benchmark, field) is not None
    }
    if any(unmade(place, store) for place in places.values()):
        yield Finding("OK", subject, "not made yet; the first run draws it")
        return
    whole = True
    for field, path in {field: store.find(place) for field, place in places.items()}.items():
        if not path.exists():
            whole = False
            yield _lost(name, benchmark, field, path)
        elif kinds[field] == "content":
            yield _hash(subject, field, path, expected.get(field))
    if not whole:
        return
    try:
        questions = benchmark.asked(store)
        fits = _fits(benchmark, questions, store)
    except (ValueError, OSError) as error:
        yield Finding("FAIL", subject, str(error), f"or leave it out with ~suite.{name}")
        return
    yield _questions(subject, benchmark, questions, fits)


def _source(benchmark: Benchmark, field: str) -> str | None:
    """Where the official file is found; `{split}` in it is the split's name."""
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
    found = sha256_of(path)
    said = f"{field}: {path}, sha256 {found}"
    if expected is None:
        return Finding("OK", subject, f"{said}, not checked: doctor.sha256 does not name it")
    if found != expected:
        return Finding("FAIL", subject, f"{said}, expected {expected}", "it is another release")
    return Finding("OK", subject, f"{said}, as expected")


def _fits(benchmark: Any, questions: list[Question], store: Store) -> str:
    """Score or write up empty answers. Raises AnswerError: they and the files do not fit."""
    lines = [
        {"question_id": one.question_id, "prompt": one.prompt, "text": "", **one.extra}
        for one in questions
    ]
    if isinstance(benchmark, Judged):
        benchmark.prompts(lines, store)
        return ", each with what a judge is told"
    if hasattr(benchmark, "annotations"):
        benchmark.score(lines, store)
        return ", each with its truth"
    if isinstance(benchmark, Submitted):
        with tempfile.TemporaryDirectory() as folder:
            benchmark.submit(lines, store, Path(folder))
        return ", whose truth only the server has"
    return ""


def _questions(subject: str, benchmark: Any, questions: list[Question], fits: str) -> Finding:
    wanted = dict.fromkeys(one.image for one in questions if isinstance(one.image, Path))
    missing = [path for path in wanted if not path.is_file()]
    asked = f"{len(questions):,} questions, {benchmark.split}"
    asked += ", the expected number" if benchmark.count is not None else ", any number is taken"
    asked += fits
    if missing:
        listed = ", ".join(map(str, missing[:NAMED]))
        source = _source(benchmark, "images")
        return Finding(
            "FAIL",
            subject,
            f"{asked}; {len(missing):,} of {len(wanted):,} images missing: {listed}",
            (f"they come from {source}; " if source else "")
            + "unpack the benchmark's images there, or set the folder they are in",
        )
    return Finding("OK", subject, f"{asked}; images all there")
