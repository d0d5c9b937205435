"""ScienceQA: school questions with lettered choices; accuracy on those with an image, in per cent.

Split `test`: 4,241 questions, of which the 2,017 with an image are the headline ("SQA-IMG"). All
are asked, those without an image as text only. Questions: LLaVA's `llava_test_CQM-A.json`; truth:
`problems.json` of ScienceQA, with `pid_splits.json` for the ids of the split (without it, the
`split` of each problem).

The rule is that of LLaVA's `llava/eval/eval_science_qa.py` (`option_letter_exactly`), with two
deviations. The script counts a missing answer as wrong, and as one without an image; here it is an
error. It decides by the answer's prompt whether a question has an image; here by the question file.
"""

import dataclasses
import re
from collections.abc import Iterator
from statistics import fmean
from typing import Any, ClassVar

from xmas.evaluation.facts import LLAVA_EVAL, Facts
from xmas.evaluation.json_files import (
    answer_lines,
    by_key,
    image_below,
    json_object,
    json_rows,
    with_keys,
)
from xmas.evaluation.outcomes import Outcomes
from xmas.evaluation.protocol import LETTER, AnswerError, Question, Scored, expect, join
from xmas.store import Made, Store, content, volatile

LETTERS = "ABCDE"
_OWNERS = "https://github.com/lupantech/ScienceQA"
_IMAGE = "<image>"


@dataclasses.dataclass(frozen=True)
class Sqa:
    """ScienceQA; `annotations` is `problems.json`, `splits` is `pid_splits.json`."""

    name: ClassVar[str] = "sqa"
    metric: ClassVar[str] = "image_accuracy"
    facts: ClassVar[Facts] = Facts(
        order=40,
        ten=True,
        seven=True,
        images=2017,
        with_image=2017,
        sources={
            "questions": LLAVA_EVAL,
            "annotations": f"data/scienceqa/problems.json of {_OWNERS}",
            "splits": f"data/scienceqa/pid_splits.json of {_OWNERS}",
            "images": f"test.zip, as described at {_OWNERS}",
        },
        counts=("count", "with_image"),
        id_key="id",
    )

    questions: str | Made = content()
    annotations: str | Made = content()
    images: str | Made = volatile()
    splits: str | Made | None = content(None)
    split: str = "test"
    count: int | None = 4241  # None: any number
    with_image: int | None = 2017
    max_new_tokens: int = 1024

    def asked(self, store: Store) -> list[Question]:
        """All questions, in the order of the file. Raises AnswerError: not the expected number."""
        images = store.find(self.images)
        return [
            Question(
                name, _prompt(row), image_below(images, row["image"]) if "image" in row else None
            )
            for name, row in self._rows(store, "conversations").items()
        ]

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        """Accuracy over the questions with an image; over all of them in the detail.

        Raises AnswerError: an answer or its problem is missing, doubled or unknown, or the
        questions are not those of the split.
        """
        rows = self._rows(store)
        texts = join(rows, answer_lines(answers, self.name), _answered, benchmark=self.name)
        path = store.find(self.annotations)
        problems = json_object(path)
        self._check_ids(set(rows), problems, store)
        values: dict[str, bool] = {}
        groups: dict[str, list[bool]] = {}
        unreadable = 0
        for name, row in rows.items():
            problem = with_keys(problems[name], ("choices", "answer"), f"{path}: problem {name}")
            letter = option_letter_exactly(texts[name], LETTERS)
            unreadable += letter is None
            choices = LETTERS[: len(problem["choices"])]
            right = letter is not None and choices.find(letter) == problem["answer"]
            if "image" in row:
                values[name] = right
            for group in _groups(problem, image="image" in row):
                groups.setdefault(group, []).append(right)
        detail: dict[str, Any] = {group: 100 * fmean(groups[group]) for group in sorted(groups)}
        detail["failed"] = unreadable
        return Scored(100 * fmean(values.values()), len(values), detail, Outcomes.mean(values))

    def references(self, store: Store) -> list[str | None]:
        """The letter of the right choice for every question of `asked`.

        Raises AnswerError: a question is no problem of the split.
        """
        rows, path = self._rows(store), store.find(self.annotations)
        problems = json_object(path)
        self._check_ids(set(rows), problems, store)
        keys = ("choices", "answer")
        answers = {
            name: with_keys(problems[name], keys, f"{path}: problem {name}") for name in rows
        }
        return [LETTERS[problem["answer"]] for problem in answers.values()]

    def _rows(self, store: Store, *keys: str) -> dict[str, dict[str, Any]]:
        """The questions, each at least with its id and `keys`: scoring needs no more than the id,
        and whether there is an image.
        """
        path = store.find(self.questions)
        listed = json_rows(path, None, "id", *keys)
        rows = by_key(listed, lambda row: str(row["id"]), path)
        advice = "take LLaVA's llava_test_CQM-A.json, or set count=null with_image=null"
        expect(len(rows), self.count, what=f"{path}: questions", advice=advice)
        pictured = sum("image" in row for row in rows.values())
        expect(pictured, self.with_image, what=f"{path}: questions with an image", advice=advice)
        if not pictured:
            raise AnswerError(f"{path}: no question has an image")
        return rows

    def _check_ids(self, asked: set[str], problems: dict[str, Any], store: Store) -> None:
        if self.splits is None:
            where = store.find(self.annotations)
            ids = {name for name, problem in problems.items() if problem.get("split") == self.split}
        else:
            where = store.find(self.splits)
            splits = with_keys(json_object(where), (self.split,), str(where))
            ids = {str(name) for name in splits[self.split]}
        if outside := sorted(asked - ids.intersection(problems)):
            raise AnswerError(f"{where}: question {outside[0]!r} is no problem of {self.split}")
        if self.count is not None and (missing := sorted(ids - asked)):
            raise AnswerError(f"{where}: {self.split} has {missing[0]!r} too, which is not asked")


def option_letter_exactly(text: str, letters: str) -> str | None:
    """The letter that an answer is ("B"), begins with ("B. red") or names ("The answer is B.").

    None if none of these, or if more than one is named. In the third form any capital is taken, and
    any character for the full stop.
    Source: LLaVA, `llava/eval/eval_science_qa.py`.
    """
    if text in tuple(letters):
        return text
    if len(text) >= 3 and text[0] in letters and text[1:3] == ". ":
        return text[0]
    named = re.findall(r"The answer is ([A-Z]).", text)
    return named[0] if len(named) == 1 else None


def _prompt(row: dict[str, Any]) -> str:
    """The human turn without its image token, which is added before the prompt of an image."""
    return row["conversations"][0]["value"].replace(_IMAGE, "").strip() + LETTER


def _answered(line: dict[str, Any]) -> str:
    return str(line["question_id"])


def _groups(problem: dict[str, Any], *, image: bool) -> Iterator[str]:
    """The groups of a question in the official tables."""
    yield "all"
    yield "image" if image else "no image"
    for sort in ("subject", "grade"):
        if sort in problem:
            yield f"{sort}: {problem[sort]}"
