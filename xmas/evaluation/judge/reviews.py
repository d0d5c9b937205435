"""Reviews on disk: what a judge replied, as a stage, and review files made elsewhere.

The identity of `Reviews` contains all that is sent, so the same answers are reviewed once under the
same judge. Review files are ours, LLaVA's, or the grade file of MM-Vet's evaluator. Our lines and
LLaVA's (`eval_gpt_review_bench.py`, one file per run; concatenate them) have `question_id` and
`content`. All else that a line states has to agree: ours name run, judge and the sha256 of the
prompt, LLaVA's the `answer_id` that they are about, MM-Vet's the model that replied. Lines without
a run belong to runs 0, 1, ... in the order of the file.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from xmas.evaluation.endpoint.responses import Reply
from xmas.evaluation.json_files import json_lines, json_object, with_keys
from xmas.evaluation.protocol import AnswerError
from xmas.store import Stage, Store, describe, write_atomically
from xmas.store.lines import appending, keep_whole_lines
from xmas.store.progress import bar

_WORDS = {str: "a string", int: "an integer", type(None): "null"}
_FIELDS: dict[str, tuple[type, ...]] = {  # of a review's line, where it has them
    "question_id": (str, int),
    "content": (str,),
    "run": (int,),
    "attempt": (int,),
    "served": (str, type(None)),
}


@dataclasses.dataclass(frozen=True)
class ReviewRequest:
    """One review to be asked for: of which question, in which run, with which prompt."""

    question_id: str | int
    run: int
    prompt: str

    def __str__(self) -> str:
        return f"question {self.question_id}, run {self.run}"


@runtime_checkable
class Reviewer(Protocol):
    """What replies to requests: a `Judge`."""

    @property
    def model(self) -> str | None: ...

    def replies(
        self, requests: Mapping[ReviewRequest, dict[str, Any]]
    ) -> Iterator[tuple[ReviewRequest, Reply]]:
        """The reply to every request body, in the order of arrival."""
        ...


@dataclasses.dataclass(frozen=True)
class Reviews(Stage):
    """`reviews.jsonl`, a line per review, and `prompts.jsonl`, a line per question.

    Lines are written as replies arrive and sorted into the order of `asked` at the end; an
    interrupted attempt resumes with those that are missing.
    """

    kind: ClassVar[str] = "reviews"

    judge: Reviewer
    asked: tuple[ReviewRequest, ...]
    system: str | None
    temperature: float | None
    max_tokens: int | None
    attempt: int = 0  # later ones repeat what could not be read

    def identity(self) -> dict[str, Any]:
        requests = [dataclasses.astuple(request) for request in self.asked]
        return {
            "version": self.version,
            "judge": describe(self.judge),
            "system": self.system,
            "temperature": describe(self.temperature),
            "max_tokens": describe(self.max_tokens),
            "attempt": self.attempt,
            "reviews": len(requests),
            "asked": hashlib.sha256(json.dumps(requests).encode()).hexdigest(),
        }

    def compute(self, store: Store, out: Path) -> None:
        reviews_path, partial_path = out / "reviews.jsonl", out / "reviews.partial"
        if reviews_path.exists():
            return
        prompts = {request.question_id: request.prompt for request in self.asked}
        _write(
            out / "prompts.jsonl",
            ({"question_id": name, "prompt": prompt} for name, prompt in prompts.items()),
        )
        lines = {
            (line["question_id"], line["run"]): line for line in keep_whole_lines(partial_path)
        }
        missing = {
            request: self._body(request)
            for request in self.asked
            if (request.question_id, request.run) not in lines
        }
        label = f"reviews by {self.judge.model}"
        with (
            appending(partial_path, seconds=0) as append,  # each was paid for
            bar(total=len(self.asked), label=label, unit="review", initial=len(lines)) as progress,
        ):
            for request, reply in self.judge.replies(missing):
                line = {
                    "question_id": request.question_id,
                    "run": request.run,
                    "attempt": self.attempt,
                    "judge": self.judge.model,
                    **dataclasses.asdict(reply),
                    "prompt_sha256": digest(request.prompt),
                }
                append(line)
                lines[request.question_id, request.run] = line
                progress.update()
        _write(reviews_path, (lines[request.question_id, request.run] for request in self.asked))
        partial_path.unlink()

    def _body(self, request: ReviewRequest) -> dict[str, Any]:
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return {
            "messages": [*system, {"role": "user", "content": request.prompt}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }


def digest(prompt: str) -> str:
    """The sha256 by which a review names its prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def reviews_from_file(
    path: Path,
    prompts: Mapping[Any, str],
    *,
    judge: str | None,
    runs: int,
    answer_ids: Mapping[Any, str],
) -> list[dict[str, Any]]:
    """The lines of a review file with `run` and `attempt`, first attempts first.

    Args:
        prompts: what a judge is asked, by question id; one review per question and run is expected.
        judge: whose reviews these are.
        answer_ids: of the graded answers, by question id; compared where both sides have one.

    Raises:
        AnswerError: a review is missing, doubled, unknown, by another judge or of another answer.
    """
    if not judge:
        raise AnswerError(f"{path}: whose reviews are these? Set judge.model")
    reviews: dict[tuple[Any, int, int], dict[str, Any]] = {}
    counts: Counter[Any] = Counter()
    for number, line in enumerate(_lines(path), start=1):
        name = line["question_id"]
        line = {"run": counts[name], "attempt": 0, **line}
        counts[name] += 1
        where = f"{path}: review {number}, of question {name!r}, run {line['run']}"
        if name not in prompts:
            raise AnswerError(f"{where}: was not asked")
        if line["run"] not in range(runs):
            raise AnswerError(f"{where}: judging.runs={runs}")
        if (own := line.get("judge", judge)) != judge:
            raise AnswerError(f"{where}: by {own}, but judge.model={judge}")
        if line.get("prompt_sha256") not in (None, digest(prompts[name])):
            raise AnswerError(f"{where}: of another answer, or by another prompt")
        graded, answer_id = line.get("answer2_id"), answer_ids.get(name)
        if graded and answer_id and graded != answer_id:
            raise AnswerError(f"{where}: of answer {graded}, but the answers have {answer_id}")
        if (review := (name, line["run"], line["attempt"])) in reviews:
            raise AnswerError(f"{where}: is in the file twice")
        reviews[review] = line
    reviewed = {(name, run) for name, run, _ in reviews}
    expected = [(name, run) for run in range(runs) for name in prompts]
    if missing := [pair for pair in expected if pair not in reviewed]:
        raise AnswerError(
            f"{path}: {len(missing)} of {len(expected)} reviews are missing, the first is of "
            f"question {missing[0][0]!r}, run {missing[0][1]} of {runs} (judging.runs)"
        )
    return [reviews[review] for review in sorted(reviews, key=lambda review: review[2])]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """JSON lines, or MM-Vet's one object of lists by question.

    Raises AnswerError: a line has no `question_id` or `content`, or a field of an odd type.
    """
    rows = _mmvet_lines(path) if path.suffix == ".json" else json_lines(path)
    for number, row in enumerate(rows, start=1):
        where = f"{path}: review {number}"
        with_keys(row, ("question_id", "content"), where)
        for field, expected in _FIELDS.items():
            value = row.get(field)
            is_expected = isinstance(value, expected) and not isinstance(value, bool)
            if field in row and not is_expected:
                names = " or ".join(_WORDS[kind] for kind in expected)
                raise AnswerError(
                    f"{where}: `{field}` is {value!r}, expected {names}; fix the line"
                )
        yield row


def _mmvet_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Raises AnswerError: a question has not as many contents as models."""
    for name, grades in json_object(path).items():
        with_keys(grades, ("model", "content"), f"{path}: {name}")
        models, contents = grades["model"], grades["content"]
        if len(models) != len(contents):
            raise AnswerError(
                f"{path}: {name} has {len(contents)} contents by {len(models)} models"
            )
        for judge, content in zip(models, contents, strict=True):
            yield {"question_id": name, "content": content, "judge": judge}
