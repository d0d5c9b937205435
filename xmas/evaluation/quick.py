"""A part of a benchmark, for sweeps: a fixed, seeded draw of its questions and how sure it is.

Its score has a name of its own, `gqa_quick`, so that no table takes it for the benchmark's.
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
from xmas.evaluation.outcomes import Outcomes
from xmas.evaluation.protocol import AnswerError, Question, Scored
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class Quick:
    """At least `size` questions of a benchmark, or all it has, scored by its own rule.

    Drawn are units, whose questions count together: all of one `question_id` (both questions of an
    image of MME), all rotations of one question of MMBench. Where ids name folders, MME's tasks,
    each gives as many units, since each weighs as much.

    The standard error is the jackknife's over units: what a score over as many other questions of
    the same kind would spread by. It is conservative where a task has few units, and nothing is
    taken off for having drawn a large part of a small benchmark.
    """

    whole: Any  # a Benchmark, which a protocol of fields cannot describe
    size: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ValueError(f"quick {self.size}: at least 2 questions are needed")

    @property
    def name(self) -> str:
        return f"{self.whole.name}_quick"

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
        """The questions drawn, in the benchmark's order. Raises AnswerError as the whole does."""
        return self._asked(self.whole.asked(store))

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        """The score of the part; in its detail `standard_error`, and `of` how many it was drawn.
        An invalid one stays so.

        Raises AnswerError: as the whole does, for the questions drawn.
        """
        everything = self.whole.asked(store)
        field, path = self._file(store)
        drawn = self._asked(everything)
        facts = facts_of(self.whole)
        names = {each.name for each in dataclasses.fields(self.whole)}
        uncounted = {name: None for name in facts.counts if name in names}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / path.name
            copy_rows(path, file, {str(one.question_id) for one in drawn}, facts)
            part = dataclasses.replace(self.whole, **{field: str(file)}, **uncounted)
            if part.asked(store) != drawn:
                raise AnswerError(f"{path}: its rows are not the questions of {self.whole.name}")
            scored = part.score(answers, store)
        if scored.score is None:
            return scored
        if scored.outcomes is None:
            raise AnswerError(f"{self.whole.name} does not say what each question adds")
        sure = {"standard_error": standard_error(scored.outcomes), "of": len(everything)}
        return dataclasses.replace(scored, detail=sure | scored.detail)

    def _file(self, store: Store) -> tuple[str, Path]:
        """The field with the questions, and the file."""
        names = {field.name for field in dataclasses.fields(self.whole)}
        field = "questions" if "questions" in names else "annotations"
        return field, store.find(getattr(self.whole, field))

    def _asked(self, everything: list[Question]) -> list[Question]:
        """Units in turns from every folder, in a seeded order, until they have enough questions."""
        facts = facts_of(self.whole)
        units: dict[str, list[Question]] = {}
        for question in everything:
            units.setdefault(facts.unit(question.question_id), []).append(question)
        strata: dict[str, list[str]] = {}
        for unit in units:
            strata.setdefault(facts.stratum(unit), []).append(unit)
        rng = np.random.default_rng(self.seed)
        orders = [[names[at] for at in rng.permutation(len(names))] for names in strata.values()]
        drawn: set[str] = set()
        asked = 0
        for turn in itertools.zip_longest(*orders):  # taken whole: folders give as many
            if asked >= self.size:
                break
            drawn |= {unit for unit in turn if unit is not None}
            asked = sum(len(units[unit]) for unit in drawn)
        kept = {id(question) for unit in drawn for question in units[unit]}
        return [question for question in everything if id(question) in kept]


def standard_error(outcomes: Outcomes) -> float:
    """Of the score, over units: the jackknife. Raises ValueError: there are fewer than two."""
    units = len(outcomes.gained)
    if units < 2:
        raise ValueError(f"{units} units of questions have no standard error; draw more")
    gained = outcomes.gained.sum(axis=0) - outcomes.gained
    counted = outcomes.counted.sum(axis=0) - outcomes.counted
    ratios = np.divide(gained, counted, out=np.zeros_like(gained), where=counted > 0)
    without = ratios @ outcomes.weights
    return float(np.sqrt((units - 1) / units * ((without - without.mean()) ** 2).sum()))


def copy_rows(path: Path, to: Path, kept: set[str], facts: Facts) -> None:
    """Copy the rows of a question file whose id is in `kept`; `facts` say where a row has its id.

    Raises AnswerError: the file is no JSON lines, JSON list or TSV, or a row has no id.
    """
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            lines = [line for line in file if line.strip()]
        to.write_text("".join(line for line in lines if _id(line, facts) in kept), "utf-8")
    elif path.suffix == ".json":
        rows = json_rows(path, facts.listed_under, facts.id_key)
        rows = [row for row in rows if str(row[facts.id_key]) in kept]
        listed = facts.listed_under
        to.write_text(json.dumps(rows if listed is None else json_object(path) | {listed: rows}))
    elif path.suffix == ".tsv":
        limit = csv.field_size_limit(sys.maxsize)  # an image is one field
        try:
            with (
                path.open(encoding="utf-8", newline="") as file,
                to.open("w", encoding="utf-8", newline="") as part,
            ):
                rows = csv.reader(file, delimiter="\t")
                writer = csv.writer(part, delimiter="\t", lineterminator="\n")
                head = next(rows)
                writer.writerow(head)
                column = head.index(facts.id_key)
                writer.writerows(row for row in rows if {row[column], _plain(row[column])} & kept)
        finally:
            csv.field_size_limit(limit)
    else:
        raise AnswerError(
            f"{path}: quick draws from questions in .jsonl, .json or .tsv; set quick=null, or "
            "leave the benchmark out"
        )


def _id(line: str, facts: Facts) -> str:
    """Of a JSON line: LLaVA's `question_id`, or the key that `facts` name."""
    row = json.loads(line)
    return str(row["question_id"] if "question_id" in row else row[facts.id_key])


def _plain(cell: str) -> str:
    """A number without leading zeros, as a benchmark asks by it that reads numbers."""
    return str(int(cell)) if cell.isdecimal() else cell
