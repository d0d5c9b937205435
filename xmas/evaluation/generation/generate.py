"""Greedy answers to a benchmark's questions, written line by line, resumable, on several ranks.

Every process answers a share of the questions. A killed run resumes from the lines on disk, also
with another number of processes; see `answer_file`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmas.evaluation.generation.answer_file import (
    answer_line,
    merge_parts,
    part_of,
    records_by_position,
)
from xmas.evaluation.generation.continuous_batch import ContinuousBatch
from xmas.evaluation.generation.decode import decode_singly
from xmas.evaluation.generation.prompts import (
    PromptGroup,
    group_prompts,
    image_reader,
    load_images,
    shared_prefix,
)
from xmas.evaluation.protocol import Question
from xmas.models.chat.labels import Encoder
from xmas.models.vlm import LoadedModel
from xmas.store.distributed import barrier, rank_and_world
from xmas.store.lines import appending, keep_whole_lines
from xmas.store.progress import bar

_SYNC = 10.0  # seconds of answers that a power cut may cost; a killed process loses none


def generate_answers(
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
    graphs: bool = True,
) -> None:
    """Write `out`, LLaVA's answer lines in the order of the questions.

    With a process group, all its processes call this, and `out` is on a disk that they share.

    Args:
        max_new_tokens: per answer.
        batch: questions that are decoded together. 1 is the papers' way, and where such a run was
            interrupted makes no difference; in a larger one rounding depends on which questions
            share the batch, so that a token may change.
        model_id: of the answer lines.
        label: the benchmark, in messages and progress.
        image_order: question i is shown the image of question `image_order[i]`; None: its own.
        workers: threads that decode images ahead.
        graphs: replay decode steps as CUDA graphs on a GPU.

    Raises:
        GenerationError: an image is unreadable or logits are not finite; names the question.
            Earlier answers are kept.
    """
    rank, world = rank_and_world()
    order = range(len(questions)) if image_order is None else image_order.tolist()
    groups = group_prompts(parts, encoder, questions, image_order=order, label=label)
    own = part_of(out, rank)
    keep_whole_lines(own)
    answered_ids = set(records_by_position(out, questions))
    barrier()  # until every rank has read what there is
    todo = _share(groups, answered_ids, rank, world)
    groups_with_images = load_images(todo, image_reader(parts), workers)
    options: Any = {
        "max_new_tokens": max_new_tokens,
        "eos": encoder.end,
        "graphs": graphs,
    }
    if batch == 1:
        answers = decode_singly(parts.model, groups_with_images, **options)
    else:
        longest = max((len(prompt.ids) for group in groups for prompt in group.prompts), default=0)
        options |= {"slots": batch, "prefix": shared_prefix(groups), "longest": longest}
        answers = ContinuousBatch(parts.model, **options).answers(groups_with_images)
    total = sum(len(group.prompts) for group in todo)
    with (
        appending(own, seconds=_SYNC) as append,
        bar(total=total, label=label, unit="question") as progress,
    ):
        for prompt, tokens in answers:
            text = parts.tokenizer.decode(tokens, skip_special_tokens=True).strip()
            line = answer_line(questions[prompt.position], text, model_id)
            append({"position": prompt.position, "line": line})
            progress.update()
    barrier()
    if rank == 0:
        merge_parts(out, questions, label)
    barrier()


def _share(groups: list[PromptGroup], done: set[int], rank: int, world: int) -> list[PromptGroup]:
    """The unanswered prompts of this rank; the questions of one image stay together."""
    todo = []
    for group in groups:
        missing = tuple(prompt for prompt in group.prompts if prompt.position not in done)
        if missing:
            todo.append(PromptGroup(group.image, missing))
    return todo[rank::world]
