"""Reviews out of a file: ours, LLaVA's, or the grade file of MM-Vet's evaluator.

Our lines and LLaVA's (`eval_gpt_review_bench.py`, a file a run; set one behind the other) have
`question_id` and `content`. Whatever else a line says of itself has to agree: ours say run, judge
and the sha256 of the prompt, LLaVA's the `answer_id` that they are about, MM-Vet's the model that
replied. Lines without a run are of run 0, 1, ... in the order of the file.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xmas.evaluation.json_files import json_lines, json_object, with_keys
from xmas.evaluation.judge.reviews import digest
from xmas.evaluation.protocol import AnswerError


def from_file(
    path: Path,
    prompts: Mapping[Any, str],
    *,
    judge: str | None,
    runs: int,
    about: Mapping[Any, str],
) -> list[dict[str, Any]]:
    """Lines with `run` and `attempt`, first attempts first; `about`: answer ids by question.

    Raises AnswerError: a review is missing, doubled, foreign, by another judge or of another
    answer.
    """
    if not judge:
        raise AnswerError(f"{path}: whose reviews are these? Set judge.model")
    found: dict[tuple[Any, int, int], dict[str, Any]] = {}
    seen: Counter[Any] = Counter()
    for number, line in enumerate(_lines(path), start=1):
        name = line["question_id"]
        line = {"run": seen[name], "attempt": 0, **line}
        seen[name] += 1
        where = f"{path}: review {number}, of question {name!r}, run {line['run']}"
        if name not in prompts:
            raise AnswerError(f"{where}: was not asked")
        if line["run"] not in range(runs):
            raise AnswerError(f"{where}: judging.runs={runs}")
        if (own := line.get("judge", judge)) != judge:
            raise AnswerError(f"{where}: by {own}, but judge.model={judge}")
        if line.get("prompt_sha256") not in (None, digest(prompts[name])):
            raise AnswerError(f"{where}: of another answer, or by another prompt")
        of, answered = line.get("answer2_id"), about.get(name)
        if of and answered and of != answered:
            raise AnswerError(f"{where}: of answer {of}, but the answers have {answered}")
        if (place := (name, line["run"], line["attempt"])) in found:
            raise AnswerError(f"{where}: stands there twice")
        found[place] = line
    there = {(name, run) for name, run, _ in found}
    wanted = [(name, run) for run in range(runs) for name in prompts]
    if missing := [one for one in wanted if one not in there]:
        raise AnswerError(
            f"{path}: {len(missing)} of {len(wanted)} reviews are missing, the first is of "
            f"question {missing[0][0]!r}, run {missing[0][1]} of {runs} (judging.runs)"
        )
    return [found[place] for place in sorted(found, key=lambda place: place[2])]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """JSON lines, or MM-Vet's one object of lists by question.

    Raises AnswerError: a line has no `question_id`, or no `content` that is a string.
    """
    rows = _graded(path) if path.suffix == ".json" else json_lines(path)
    for number, row in enumerate(rows, start=1):
        where = f"{path}: review {number}"
        with_keys(row, ("question_id", "content"), where)
        if not isinstance(row["content"], str):
            raise AnswerError(f"{where}: `content` is {row['content']!r}, expected a string")
        yield row


def _graded(path: Path) -> Iterator[dict[str, Any]]:
    """Raises AnswerError: a question has not as many contents as models."""
    for name, held in json_object(path).items():
        with_keys(held, ("model", "content"), f"{path}: {name}")
        if len(held["model"]) != len(held["content"]):
            raise AnswerError(
                f"{path}: {name} has {len(held['content'])} contents by {len(held['model'])} models"
            )
        for judge, content in zip(held["model"], held["content"], strict=True):
            yield {"question_id": name, "content": content, "judge": judge}
