"""Scores an answer file from any program: from files alone, without a model."""

import contextlib
import dataclasses
import gc
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from xmas.evaluation.json_files import json_lines
from xmas.evaluation.odd_answers import odd_answers
from xmas.evaluation.protocol import Benchmark
from xmas.store import Made, Stage, Store, content

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Rescore(Stage):
    """`score.json`: benchmark, split, metric, score, num, detail.

    The identity is the content of the files, not their paths: a changed file is scored again. No
    `run.json` is written, so tables of trained targets do not list it.
    """

    kind: ClassVar[str] = "rescore"

    benchmark: Benchmark | None = None
    answers: str | Made | None = content(None)  # LLaVA's answer lines

    def check(self, store: Store) -> None:
        """Raises ValueError: no benchmark or no file is named."""
        if self.benchmark is None:
            raise ValueError("goal=rescore: name the benchmark, as in benchmark=pope")
        if self.answers is None:
            raise ValueError("goal=rescore: name the answers, rescore.answers=FILE")

    def make(self, store: Store) -> str:
        """The score as one line of JSON. Raises ValueError: see `check`."""
        self.check(store)
        return json.dumps(json.loads((store.get(self) / "score.json").read_text()))

    def compute(self, store: Store, out: Path) -> None:
        assert self.benchmark is not None  # `check` asks
        assert self.answers is not None
        with _collector_paused():
            answers = json_lines(store.find(self.answers))
            scored = self.benchmark.score(answers, store)
        for sentence in odd_answers(answers, scored):
            log.warning("%s: %s", store.find(self.answers), sentence)
        record = scored.record(self.benchmark)
        (out / "score.json").write_text(json.dumps(record, indent=2))


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause garbage collection: with millions of rows in memory it takes as long as scoring."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
