"""Upload files for evaluation servers."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from xmas.evaluation.json_files import json_lines
from xmas.evaluation.protocol import Benchmark
from xmas.store import Made, Stage, Store, content


@runtime_checkable
class Submitted(Protocol):
    """A benchmark that has an upload file."""

    def submit(self, answers: list[dict[str, Any]], store: Store, out: Path) -> Path:
        """Write the file into `out`. Raises AnswerError: an answer is missing or unknown."""
        ...


@dataclasses.dataclass(frozen=True)
class Submission(Stage):
    """The upload file of a benchmark; its identity is the content of the answers."""

    kind: ClassVar[str] = "submission"

    benchmark: Benchmark | None = None
    answers: str | Made | None = content(None)  # LLaVA's answer lines

    def check(self, store: Store) -> None:
        """Raises ValueError: no benchmark or no file is named, or the benchmark has no server."""
        if self.benchmark is None:
            raise ValueError("goal=submission: name the benchmark, as in benchmark=vqav2")
        if not isinstance(self.benchmark, Submitted):
            raise ValueError(f"{self.benchmark.name} has no upload file; goal=rescore scores it")
        if self.answers is None:
            raise ValueError("goal=submission: name the answers, submission.answers=FILE")

    def make(self, store: Store) -> str:
        """The path of the file. Raises ValueError: see `check`."""
        self.check(store)
        folder = store.get(self)
        (file,) = (path for path in folder.iterdir() if path.name != "meta.json")
        return str(file)

    def compute(self, store: Store, out: Path) -> None:
        assert isinstance(self.benchmark, Submitted)  # `check` asks
        assert self.answers is not None
        self.benchmark.submit(json_lines(store.find(self.answers)), store, out)
