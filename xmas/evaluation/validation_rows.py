"""Rows of benchmarks with their answers, as small pools for selectors that rank towards them."""

import dataclasses
import io
import json
import logging
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from xmas.data.pool import Pool
from xmas.evaluation.facts import facts_of
from xmas.evaluation.protocol import AnswerError, Benchmark, Referenced
from xmas.store import Made, Stage, Store

log = logging.getLogger(__name__)

FILE, IMAGES, REPORT = "rows.json", "images", "left_out.json"


@dataclasses.dataclass(frozen=True)
class ValidationRows(Stage):
    """Some questions of a benchmark in its own wording, each with its right answer.

    Writes `rows.json` in LLaVA's form, whose sources are the benchmark's strata, such as the tasks
    of MME, or its name; `images/`, copies of those that the rows show; and `left_out.json`, the ids
    of questions without a single right answer (annotators disagree, or the answer has parts), and
    how many others only repeat a question with its choices in another order.

    Args:
        rows: drawn at random; all where there are fewer.
        seed: of the draw.
    """

    kind: ClassVar[str] = "validation_rows"

    benchmark: Benchmark
    rows: int = 500
    seed: int = 0

    @property
    def pool(self) -> Pool:
        """The rows as a pool."""
        return Pool(Made(self, FILE), Made(self, IMAGES), name=f"{self.benchmark.name} validation")

    def compute(self, store: Store, out: Path) -> None:
        """Raises AnswerError: a file is malformed, or no question has a single right answer."""
        assert isinstance(self.benchmark, Referenced)  # `ValidationSets` refuses others
        name, facts = self.benchmark.name, facts_of(self.benchmark)
        pairs = list(
            zip(self.benchmark.asked(store), self.benchmark.references(store), strict=True)
        )
        first: dict[str, str | int] = {}  # of the questions that are one in another order
        for question, _ in pairs:
            first.setdefault(facts.unit(question.question_id), question.question_id)
        distinct = [
            (question, answer)
            for question, answer in pairs
            if first[facts.unit(question.question_id)] == question.question_id
        ]
        answered = [(question, answer) for question, answer in distinct if answer is not None]
        without = [question.question_id for question, answer in distinct if answer is None]
        if not answered:
            raise AnswerError(f"{name}: none of {len(pairs)} questions has a single right answer")
        report = {
            "asked": len(pairs),
            "in another order": len(pairs) - len(distinct),
            "no single answer": without,
        }
        (out / REPORT).write_text(json.dumps(report, indent=1))
        if without:
            log.warning(
                "%s: %d of %d questions have no single right answer and are left out, see %s",
                *(name, len(without), len(distinct), REPORT),
            )
        rng = np.random.default_rng([self.seed])
        places = np.sort(rng.permutation(len(answered))[: self.rows])
        images = _Images(out / IMAGES)
        records = []
        for question, answer in (answered[place] for place in places):
            stratum = facts.stratum(facts.unit(question.question_id))
            picture = {} if question.image is None else {"image": images.name_of(question.image)}
            prompt = question.prompt if question.image is None else f"<image>\n{question.prompt}"
            turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]
            record = {"id": question.question_id, "source": stratum or name, **picture}
            records.append(record | {"conversations": turns})
        (out / FILE).write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")


class _Images:
    """Copies of images in a folder, each once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(exist_ok=True)
        self._names: dict[Path | bytes, str] = {}

    def name_of(self, image: Path | bytes) -> str:
        """The name of the copy."""
        if image not in self._names:
            content = image if isinstance(image, bytes) else image.read_bytes()
            suffix = _suffix(content) if isinstance(image, bytes) else image.suffix
            self._names[image] = f"{len(self._names):06d}{suffix}"
            (self.folder / self._names[image]).write_bytes(content)
        return self._names[image]


def _suffix(content: bytes) -> str:
    with Image.open(io.BytesIO(content)) as image:
        return f".{(image.format or 'img').lower()}"


@dataclasses.dataclass(frozen=True)
class ValidationSets:
    """The tasks of `Icons`: validation rows of the benchmarks of a suite.

    Args:
        suite: the benchmarks by name.
        only: some of these names; None: all.
        rows: drawn of a benchmark, by its name.
        others: drawn of benchmarks that `rows` does not name.
        files: by name, fields of a benchmark to replace, for files that are not those it is scored
            on: {gqa: {questions: FILE, annotations: FILE, split: val, count: null}}.
        seed: of the draws.
    """

    suite: dict[str, Benchmark] = dataclasses.field(default_factory=dict)
    only: list[str] | None = None
    rows: dict[str, int] = dataclasses.field(default_factory=dict)
    others: int = 500
    files: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    seed: int = 0

    def pools(self) -> dict[str, Pool]:
        """The rows of every benchmark.

        Raises ValueError: one is not in the suite, or has no public answers.
        """
        return {name: self._rows_of(name).pool for name in self._names()}

    def by_source(self) -> list[str]:
        """The benchmarks with strata, each of which is a sub-task."""
        return [name for name in self._names() if facts_of(self.suite[name]).stratified]

    def _names(self) -> list[str]:
        names = list(self.suite) if self.only is None else self.only
        for setting, keys in (("only", names), ("files", self.files)):
            if unknown := [name for name in keys if name not in self.suite]:
                raise ValueError(
                    f"validation.{setting} has {', '.join(unknown)}; the suite has "
                    f"{', '.join(self.suite) or 'no benchmark: name one, e.g. suite=ten'}"
                )
        return names

    def _rows_of(self, name: str) -> ValidationRows:
        benchmark: Any = self.suite[name]  # a dataclass too, which no type says at once
        files = self.files.get(name, {})
        if not isinstance(self.suite[name], Referenced):
            others = [other for other in self.suite if isinstance(self.suite[other], Referenced)]
            raise ValueError(
                f"{name}: the right answers of its questions are not public, or not texts; leave "
                f"it out: validation.only=[{','.join(others)}]"
            )
        fields = {field.name for field in dataclasses.fields(benchmark)}
        if unknown := sorted({*files} - fields):
            raise ValueError(
                f"validation.files.{name} has {', '.join(unknown)}; its fields are "
                f"{', '.join(sorted(fields))}"
            )
        return ValidationRows(
            dataclasses.replace(benchmark, **files),
            self.rows.get(benchmark.name, self.others),
            self.seed,
        )
