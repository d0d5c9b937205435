"""Greedy answers to a benchmark's questions: a line each at once, resumed by question, in ranks.

Every process of a group answers a share of the questions and writes lines into a file of its own,
in the order they are finished. When all are there, rank 0 puts them into the order of the
questions. So a killed run goes on with the lines it finds, whoever wrote them and however many
processes run now.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmas.evaluation.generation.decode import Batch, alone
from xmas.evaluation.generation.prompts import (
    GenerationError,
    Group,
    decoded,
    head_of,
    prompts_of,
    with_pictures,
)
from xmas.evaluation.protocol import Question
from xmas.models.chat.labels import Encoder
from xmas.models.vlm import LoadedModel
from xmas.store import write_atomically
from xmas.store.distributed import barrier, place
from xmas.store.progress import bar


def answer(
    parts: LoadedModel,
    encoder: Encoder,
    questions: Sequence[Question],
    *,
    max_new_tokens: int,
    batch: int,
    out: Path,
    model_id: str,
    label: str,
    image_order: np.ndarray | None = None,
    workers: int = 0,
) -> None:
    """Write `out`, LLaVA's answer lines in the order of the questions.

    A `batch` of 1 is the papers' way, each prompt alone and whole; where such a run was interrupted
    makes no difference. In a larger one it may turn a token, since rounding depends on who shares
    the batch. `image_order` shows question i the image of question `image_order[i]`; `workers`
    threads decode images ahead. With a process group, all its processes call this; `out` must be on
    a disk they share.

    Raises GenerationError, naming the question: its image is unreadable, or its logits are not
    finite. What was answered before is kept.
    """
    rank, world = place()
    order = range(len(questions)) if image_order is None else image_order.tolist()
    groups = prompts_of(parts, encoder, questions, image_order=order, label=label)
    own = out.with_name(f"{out.name}.{rank}.partial")
    _cut_torn(own)
    done = set(_lines(out, questions))
    barrier()  # until every rank has read what there is
    todo = _share(groups, done, rank, world)
    given = with_pictures(todo, decoded(parts), workers)
    options: Any = {"max_new_tokens": max_new_tokens, "eos": parts.tokenizer.eos_token_id}
    if batch == 1:
        answers = alone(parts.model, given, **options)
    else:
        longest = max((len(prompt.ids) for group in groups for prompt in group.prompts), default=0)
        options |= {"rows": batch, "head": head_of(groups), "longest": longest}
        answers = Batch(parts.model, **options).answers(given)
    total = sum(len(group.prompts) for group in todo)
    with (
        own.open("a", encoding="utf-8") as file,
        bar(total=total, label=label, unit="question") as progress,
    ):
        for prompt, tokens in answers:
            text = parts.tokenizer.decode(tokens, skip_special_tokens=True).strip()
            line = _line(questions[prompt.position], text, model_id)
            file.write(json.dumps({"position": prompt.position, "line": line}) + "\n")
            file.flush()
            progress.update()
    barrier()
    if rank == 0:
        _merge(out, questions, label)
    barrier()


def discard_parts(out: Path) -> None:
    """Remove the lines from which `out` was put together, if any are left."""
    for part in _parts(out):
        part.unlink()


def _share(groups: list[Group], done: set[int], rank: int, world: int) -> list[Group]:
    """What this rank has to answer; the questions of one image stay together."""
    todo = []
    for group in groups:
        left = tuple(prompt for prompt in group.prompts if prompt.position not in done)
        if left:
            todo.append(Group(group.image, left))
    return todo[rank::world]


def _parts(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f"{out.name}.*.partial"))


def _cut_torn(part: Path) -> None:
    """Cut off a last line that was not finished."""
    if part.exists():
        written = part.read_bytes()
        os.truncate(part, written.rfind(b"\n") + 1)


def _lines(out: Path, questions: Sequence[Question]) -> dict[int, dict[str, Any]]:
    """The answer lines of all ranks by their question's position.

    Raises GenerationError: a line is for another question than the one that stands there, or a
    question has two.
    """
    found: dict[int, dict[str, Any]] = {}
    for part in _parts(out):
        *whole, _torn = part.read_bytes().split(b"\n")
        for number, written in enumerate(whole, start=1):
            held = json.loads(written)
            position, line = held["position"], held["line"]
            asked = questions[position] if position < len(questions) else None
            if asked is None or (line["question_id"], line["prompt"]) != (
                asked.question_id, asked.prompt
            ):  # fmt: skip
                raise GenerationError(
                    f"{part}: line {number} answers question_id {line['question_id']!r}, which is "
                    f"not question {position + 1} of this run; remove the file to start again"
                )
            if position in found:
                raise GenerationError(
                    f"{part}: line {number} answers question_id {line['question_id']!r} a second "
                    "time; remove the file to ask its questions again"
                )
            found[position] = line
    return found


def _merge(out: Path, questions: Sequence[Question], label: str) -> None:
    """Put all lines into the order of the questions. Raises GenerationError: one is missing."""
    found = _lines(out, questions)
    missing = [number for number in range(len(questions)) if number not in found]
    if missing:
        raise GenerationError(
            f"{label}: {len(missing)} of {len(questions)} questions have no answer, the first is "
            f"question_id {questions[missing[0]].question_id!r}; run the same command again"
        )
    ordered = "".join(
        json.dumps(found[position], ensure_ascii=False) + "\n" for position in range(len(questions))
    )
    write_atomically(out, lambda path: path.write_text(ordered, "utf-8"))
    discard_parts(out)


def _line(question: Question, text: str, model_id: str) -> dict[str, Any]:
    return {
        "question_id": question.question_id,
        "prompt": question.prompt,
        "text": text,
        "answer_id": "",
        "model_id": model_id,
        "metadata": {},
        **question.extra,
    }
