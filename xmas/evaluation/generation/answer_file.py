"""The file of a benchmark's answers: lines in LLaVA's format, kept as they are made.

Every process appends lines to its part, in the order in which answers are finished. When
all are there, one process sorts them into the order of the questions. A killed run therefore
resumes from the lines on disk, whichever process wrote them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xmas.evaluation.protocol import Question
from xmas.store import write_atomically
from xmas.store.lines import whole_lines

Record = dict[str, Any]  # of a part: `position` of the question, `line`, and what else is noted


class GenerationError(ValueError):
    """A question could not be answered; the message names it. Earlier answers are kept."""


def name_of_question(label: str, position: int, question: Question) -> str:
    """What messages call a question of the benchmark `label`."""
    return f"{label}: question {position + 1} (question_id {question.question_id!r})"


def answer_line(question: Question, text: str, model_id: str) -> dict[str, Any]:
    """A line of LLaVA's answer files."""
    return {
        "question_id": question.question_id,
        "prompt": question.prompt,
        "text": text,
        "answer_id": "",
        "model_id": model_id,
        "metadata": {},
        **question.extra,
    }


def part_of(out: Path, rank: int) -> Path:
    """The file to which a process appends its records."""
    return out.with_name(f"{out.name}.{rank}.partial")


def discard_parts(out: Path) -> None:
    """Remove the parts from which `out` was merged, if any are left."""
    for part in _parts(out):
        part.unlink()


def records_by_position(out: Path, questions: Sequence[Question]) -> dict[int, Record]:
    """The records of all parts by their question's position.

    Raises GenerationError: a line is not for the question at its position, or a question has two.
    """
    records: dict[int, Record] = {}
    for part in _parts(out):
        for number, record in whole_lines(part).items():
            position, line = record["position"], record["line"]
            question = questions[position] if position < len(questions) else None
            if question is None or (line["question_id"], line["prompt"]) != (
                question.question_id, question.prompt
            ):  # fmt: skip
                raise GenerationError(
                    f"{part}: line {number} answers question_id {line['question_id']!r}, which is "
                    f"not question {position + 1} of this run; remove the file to start again"
                )
            if position in records:
                raise GenerationError(
                    f"{part}: line {number} answers question_id {line['question_id']!r} a second "
                    "time; remove the file to ask its questions again"
                )
            records[position] = record
    return records


def merge_parts(out: Path, questions: Sequence[Question], label: str) -> None:
    """Sort all lines into the order of the questions. Raises GenerationError: one is missing."""
    records = records_by_position(out, questions)
    missing = [number for number in range(len(questions)) if number not in records]
    if missing:
        raise GenerationError(
            f"{label}: {len(missing)} of {len(questions)} questions have no answer, the first is "
            f"question_id {questions[missing[0]].question_id!r}; run the same command again"
        )
    ordered = "".join(
        json.dumps(records[position]["line"], ensure_ascii=False) + "\n"
        for position in range(len(questions))
    )
    write_atomically(out, lambda path: path.write_text(ordered, "utf-8"))
    discard_parts(out)


def note_generation(answers: Path, how: dict[str, Any]) -> None:
    """Write `generation.json` next to the answers: how they were generated."""
    text = json.dumps(how, indent=2)
    write_atomically(answers.with_name("generation.json"), lambda path: path.write_text(text))


def _parts(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f"{out.name}.*.partial"))
