"""What was chosen with validation rows of benchmarks is audited by itself.

Such a subset may have been chosen for showing a benchmark's images, and its scores look better for
it; so the command compares the pool's images with those of the suite without being asked. Where the
very questions of the suite were the validation rows, it says how many.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from xmas.cli.config import build
from xmas.store import Stage, Store, key
from xmas.store.planned_stages import planned_stages

if TYPE_CHECKING:
    from xmas.data.pool import Pool
    from xmas.evaluation.protocol import Benchmark
    from xmas.results.audit import Audit
    from xmas.selection.subset import Subset

log = logging.getLogger(__name__)


def audit_what_saw_validation(
    goal: Stage, store: Store, cfg: DictConfig, allowed: frozenset[str]
) -> None:
    """Log what the audit finds for each subset that the goal was made of, where its selector saw
    validation rows; without a suite say that nothing was compared.
    """
    for subset in _subsets(goal):
        log.warning("%s was chosen by validation rows of benchmarks", f"subset/{key(subset)}")
        if not cfg.suite:
            log.warning("no images were compared; name the benchmarks, e.g. suite=ten")
            continue
        audit: Audit = build(cfg.audit, allowed)
        pools: dict[str, Pool] = getattr(subset.ranking.selector, "pools", dict)()
        for name, count, number in scored_questions(pools.values(), audit.suite, store):
            log.warning(
                "%d of the %d questions of %s were validation rows: its score is no test; rank "
                "towards files that are not scored, validation.files.%s={questions: FILE, ...}",
                *(count, number, name, name),
            )
        for line in dataclasses.replace(audit, subset=subset).make(store).splitlines():
            log.info("audit: %s", line)


def scored_questions(
    pools: "Iterable[Pool]", suite: "dict[str, Benchmark]", store: Store
) -> Iterator[tuple[str, int, int]]:
    """Benchmarks of which questions are among the rows of some pools: name, how many, of how many.

    The same question has the same prompt and the same image file.
    """
    images_of: dict[str, set[str]] = {}  # digests by prompt
    for pool in pools:
        rows = pool.open(store)
        for row in range(len(rows)):
            prompt = next((question for question, _ in rows.conversation(row)), "").strip()
            digests = {_digest(image) for image in rows.images_of(row)} or {""}
            images_of.setdefault(prompt, set()).update(digests)
    for name, benchmark in suite.items():
        questions = benchmark.asked(store)
        count = sum(
            ("" if question.image is None else _digest(question.image))
            in images_of[question.prompt.strip()]
            for question in questions
            if question.prompt.strip() in images_of
        )
        if count:
            yield name, count, len(questions)


def _digest(image: Path | bytes) -> str:
    return hashlib.sha256(image if isinstance(image, bytes) else image.read_bytes()).hexdigest()


def _subsets(goal: Stage) -> "Iterator[Subset]":
    """The subsets among what a goal was made of whose selector saw validation rows."""
    planned = planned_stages(goal)
    if not any(stage.kind == "subset" for stage in planned):
        return
    from xmas.selection.protocol import saw_validation  # not for goals without selection
    from xmas.selection.subset import Subset

    for stage in planned:
        if isinstance(stage, Subset) and saw_validation(stage.ranking.selector):
            yield stage
