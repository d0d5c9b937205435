"""Quick scores, for sweeps: a fixed, seeded sample of a benchmark's questions.

The score has another name, as `gqa_quick`, so that no table confuses it with the benchmark's, and a
standard error.
"""

import csv
import dataclasses
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from xmas.evaluation.facts import Facts, facts_of
from xmas.evaluation.json_files import json_object, json_rows
from xmas.evaluation.outcomes import Outcomes, linked
from xmas.evaluation.protocol import AnswerError, Question, Scored
from xmas.evaluation.text_files import ENCODING, json_of, text_lines
from xmas.store import Store

_SUFFIX = "_quick"


@dataclasses.dataclass(frozen=True)
class Quick:
    """At least `size` questions of a benchmark, or all it has, scored by its own rule.

    Units are sampled, whose questions count together: all with one `question_id` (both questions of
    an image of MME), all rotations of one question of MMBench. Each stratum (a task of MME) gives
    the same number of units. The benchmark's `facts` define units and strata.

    The standard error is the jackknife's over units: the spread of scores over samples of this
    size. It is conservative where a stratum has few units; no finite-population correction.

    Args:
        whole: the benchmark; its dataclass has a field `questions` or `annotations` with a file of
            questions: JSON lines, JSON or TSV.
        size: questions, at least 2.
        seed: of the sample.
    """

    whole: Any  # a Benchmark and a dataclass, which no type says at once
    size: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ValueError(f"quick {self.size}: at least 2 questions are needed")

    @property
    def name(self) -> str:
        return quick_name(self.whole.name)

    @property
    def split(self) -> str:
        return f"{self.whole.split}, {self.size} drawn with seed {self.seed}"

    @property
    def metric(self) -> str:
        return self.whole.metric

    @property
    def max_new_tokens(self) -> int:
        return self.whole.max_new_tokens

    def asked(self, store: Store) -> list[Question]:
        """The sampled questions, in the benchmark's order. Raises AnswerError as the whole does."""
        return self._sample(self.whole.asked(store))

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        """The score of the sample; its detail has `standard_error`, and `of`: all questions.

        An invalid score stays invalid. Raises AnswerError: as the whole does, for the sample.
        """
        questions = self.whole.asked(store)
        field, path = self._file(store)
        sample = self._sample(questions)
        facts = facts_of(self.whole)
        names = {member.name for member in dataclasses.fields(self.whole)}
        uncounted = {name: None for name in facts.counts if name in names}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / path.name
            copy_rows(path, file, {str(question.question_id) for question in sample}, facts)
            part = dataclasses.replace(self.whole, **{field: str(file)}, **uncounted)
            if part.asked(store) != sample:
                raise AnswerError(f"{path}: its rows are not the questions of {self.whole.name}")
            scored = part.score(answers, store)
        if scored.score is None:
            return scored
        if scored.outcomes is None:
            raise AnswerError(
                f"{self.whole.name}: its score has no outcomes, so that a sample has no standard "
                "error; set quick=null, or return outcomes from its score()"
            )
        about = {"standard_error": standard_error(scored.outcomes), "of": len(questions)}
        return dataclasses.replace(scored, detail=about | scored.detail)

    def _file(self, store: Store) -> tuple[str, Path]:
        """The field of the question file, and its path. Raises AnswerError: no such field."""
        names = {field.name for field in dataclasses.fields(self.whole)}
        for field in ("questions", "annotations"):
            if field in names:
                return field, store.find(getattr(self.whole, field))
        raise AnswerError(
            f"{self.whole.name}: no field `questions` with a file to sample from; set quick=null"
        )

    def _sample(self, questions: list[Question]) -> list[Question]:
        """Units in turns from every stratum, in a seeded order, until they have enough."""
        facts = facts_of(self.whole)
        units: dict[str, list[Question]] = {}
        for question in questions:
            units.setdefault(facts.unit(question.question_id), []).append(question)
        strata: dict[str, list[str]] = {}
        for unit in units:
            strata.setdefault(facts.stratum(unit), []).append(unit)
        rng = np.random.default_rng(self.seed)
        orders = [[names[at] for at in rng.permutation(len(names))] for names in strata.values()]
        sample: set[str] = set()
        size = 0
        for turn in itertools.zip_longest(*orders):  # complete turns: equally many of each stratum
            if size >= self.size:
                break
            sample |= {unit for unit in turn if unit is not None}
            size = sum(len(units[unit]) for unit in sample)
        members = {id(question) for unit in sample for question in units[unit]}
        return [question for question in questions if id(question) in members]


def quick_name(name: str) -> str:
    """What a sample of a benchmark's questions is called."""
    return f"{name}{_SUFFIX}"


def is_quick(name: str) -> bool:
    """Whether a benchmark's name is that of a sample of its questions.

    >>> is_quick("gqa_quick"), is_quick("gqa")
    (True, False)
    """
    return name.endswith(_SUFFIX)


def standard_error(outcomes: Outcomes) -> float:
    """The jackknife standard error of a score, over units. Raises ValueError: fewer than two."""
    units = len(outcomes.gained)
    if units < 2:
        raise ValueError(f"{units} units of questions have no standard error; raise quick")
    gains = outcomes.gained.sum(axis=0) - outcomes.gained
    counts = outcomes.counted.sum(axis=0) - outcomes.counted
    without = linked(gains, counts, outcomes.link) @ outcomes.weights
    return float(np.sqrt((units - 1) / units * ((without - without.mean()) ** 2).sum()))


def copy_rows(path: Path, to: Path, ids: set[str], facts: Facts) -> None:
    """Copy the rows of a question file whose id is in `ids`; `facts` say where a row has its id.

    Raises AnswerError: the file is no JSON lines, JSON list or TSV, or a row has no id.
    """
    if path.suffix == ".jsonl":
        lines = [line for _, line in text_lines(path) if line.strip()]
        to.write_text("".join(line for line in lines if _id(line, facts, path) in ids), "utf-8")
    elif path.suffix == ".json":
        rows = json_rows(path, facts.listed_under, facts.id_key)
        rows = [row for row in rows if str(row[facts.id_key]) in ids]
        list_key = facts.listed_under
        to.write_text(
            json.dumps(rows if list_key is None else json_object(path) | {list_key: rows})
        )
    elif path.suffix == ".tsv":
        limit = csv.field_size_limit(sys.maxsize)  # an image is one field
        try:
            with (
                path.open(encoding=ENCODING, newline="") as file,
                to.open("w", encoding="utf-8", newline="") as part,
            ):
                rows = csv.reader(file, delimiter="\t")
                writer = csv.writer(part, delimiter="\t", lineterminator="\n")
                head = next(rows)
                writer.writerow(head)
                column = head.index(facts.id_key)
                writer.writerows(row for row in rows if {row[column], _plain(row[column])} & ids)
        finally:
            csv.field_size_limit(limit)
    else:
        raise AnswerError(
            f"{path}: quick samples from questions in .jsonl, .json or .tsv; set quick=null, or "
            "leave the benchmark out"
        )


def _id(line: str, facts: Facts, path: Path) -> str:
    """The id of a JSON line: LLaVA's `question_id`, or the key that `facts` name."""
    row = json_of(line, f"{path}: a line")
    return str(row["question_id"] if "question_id" in row else row[facts.id_key])


def _plain(cell: str) -> str:
    """A number without leading zeros, as in the ids of a benchmark that converts to numbers."""
    return str(int(cell)) if cell.isdecimal() else cell
