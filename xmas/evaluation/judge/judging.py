"""How a benchmark asks a judge, and the grades that come of it.

A review that cannot be read is never a number, and never left out: it makes the score invalid. The
official scripts put -1 or 0 there, which has given 96.1 points (lmms-eval, issue 64).
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from xmas.evaluation.json_files import json_lines
from xmas.evaluation.judge.judge import Judge
from xmas.evaluation.judge.review_file import from_file
from xmas.evaluation.judge.reviews import Asked, Reviews
from xmas.evaluation.protocol import AnswerError, Scored
from xmas.store import Made, Store

Grade = TypeVar("Grade")


@dataclasses.dataclass(frozen=True)
class Reviewed(Generic[Grade]):
    """The grades of every question, one a run; None where the review cannot be read."""

    grades: dict[Any, list[Grade | None]]
    about: dict[str, Any]  # the judge, and how often it was asked

    def invalid(self) -> Scored | None:
        """The score in place of the benchmark's if a review cannot be read, with how many."""
        unread = [
            {"question_id": name, "run": run}
            for name, runs in self.grades.items()
            for run, grade in enumerate(runs)
            if grade is None
        ]
        if not unread:
            return None
        asked = sum(map(len, self.grades.values()))
        said = f"{len(unread)} of {asked} reviews cannot be read"
        return Scored(None, len(self.grades), {"invalid": said, "unread": unread, **self.about})

    def runs(self) -> list[dict[Any, Grade]]:
        """The grade of every question, in each run. Only where nothing is `invalid`."""
        whole = {
            name: [grade for grade in grades if grade is not None]
            for name, grades in self.grades.items()
        }
        names = list(whole)
        return [dict(zip(names, run, strict=True)) for run in zip(*whole.values(), strict=True)]


@dataclasses.dataclass(frozen=True)
class Judging:
    """The judge, how often it is asked, and in which mode."""

    judge: Judge
    runs: int = 3
    asks: int = 1  # at most, for a review that can be read; all are kept, repeats are counted
    system: str | None = None
    temperature: float | None = 0.0  # None: the endpoint's own
    max_tokens: int | None = None

    def check(self) -> None:
        """Raise JudgeError if the judge cannot be asked, ValueError if it would not be."""
        if self.runs < 1 or self.asks < 1:
            raise ValueError(f"judging.runs={self.runs}, judging.asks={self.asks}: both from 1 up")
        self.judge.check()

    def reviewed(
        self,
        prompts: dict[Any, str],
        read: Callable[[str], Grade | None],
        *,
        file: str | Made | None,
        store: Store,
        answer_ids: Mapping[Any, str] = MappingProxyType({}),
    ) -> Reviewed[Grade]:
        """Grades for all prompts, out of `file` or else from the judge.

        Ours say which prompt they reply to, LLaVA's the `answer_id` that they are about. Raises
        AnswerError: the file lacks a review, or has one that is doubled, foreign, by another judge
        or of another answer. Raises JudgeError: the judge does not reply.
        """
        if file is None:
            lines = self._ask(prompts, read, store)
        else:
            lines = from_file(
                store.find(file), prompts, judge=self.judge.model, runs=self.runs, about=answer_ids
            )
        grades: dict[Any, list[Grade | None]] = {name: [None] * self.runs for name in prompts}
        for line in lines:
            runs = grades[line["question_id"]]
            if runs[line["run"]] is None:
                runs[line["run"]] = read(line["content"])
        about = {
            "judge": self.judge.model,
            "served": sorted({line["served"] for line in lines if line.get("served")}),
            "asked_again": sum(line["attempt"] > 0 for line in lines),
        }
        return Reviewed(grades, about)

    def _ask(
        self, prompts: dict[Any, str], read: Callable[[str], Grade | None], store: Store
    ) -> list[dict[str, Any]]:
        """The judge's reviews; what cannot be read is asked for again, `asks` times in all."""
        self.check()
        wanted = [
            Asked(name, run, prompt) for run in range(self.runs) for name, prompt in prompts.items()
        ]
        lines: list[dict[str, Any]] = []
        for attempt in range(self.asks):
            stage = Reviews(
                self.judge,
                tuple(wanted),
                system=self.system,
                temperature=self.temperature,
                max_tokens=self.max_tokens,
                attempt=attempt,
            )
            said = json_lines(store.get(stage) / "reviews.jsonl")
            lines += said
            wanted = [
                one for one, line in zip(wanted, said, strict=True) if read(line["content"]) is None
            ]
            if not wanted:
                break
        return lines


def number(text: str, most: float) -> float | None:
    """A plain decimal from 0 to `most`, or None: "nan", "1e1", "8/10" and "9." are none."""
    if not re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return None
    return float(text) if float(text) <= most else None


def check_wording(text: str, official: str, where: Path) -> None:
    """Raise AnswerError unless the words of `text`, in single spaces, have this sha256."""
    if hashlib.sha256(" ".join(text.split()).encode()).hexdigest() != official:
        raise AnswerError(
            f"{where}: not the official wording; take the official file, or set wording=NAME, "
            "which then stands in the name of the score"
        )
