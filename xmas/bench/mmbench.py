"""MMBench, English and Chinese: multiple choice, right only if right under every order of options.

Split `dev_20230712` (Chinese: `dev_cn_20231003`): 4,377 rows that are 1,176 questions, each asked
with its two, three or four options rotated. One TSV holds questions, images (base64) and answers:
`mmbench_dev_20230712.tsv`, `mmbench_dev_cn_20231003.tsv`; the V1.1 files are another benchmark and
want another name. For Chinese set `name`, `split` and `suffix` (`CHINESE`).

Circular accuracy: rows whose `index` agrees modulo a million are one question, a hit only if all
are right. Prompts are those of LLaVA's `model_vqa_mmbench.py`: hint, question, options up to the
first missing one, where missing is what pandas reads as such, so an option that says "None" ends
the list too. Official scoring asks a language model what a loose answer means; here `option_letter`
decides without one, and what it cannot tell is wrong (VLMEvalKit's "exact_matching"). LLaVA's
answers are single letters, for which both agree.
"""

import base64
import binascii
import csv
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from xmas.bench import LETTER, AnswerError, Question, Scored, expect, join
from xmas.bench.lines import answer_lines, by_key
from xmas.bench.outcomes import Outcomes
from xmas.bench.text import option_letter
from xmas.store import Made, Store, content

CHINESE = "\n请直接回答选项字母。"
_LETTERS = "ABCD"
_COLUMNS = ("index", "question", "hint", *_LETTERS, "answer", "image")
_ROTATION = 1_000_000  # between the indices of two orders of one question
_MISSING = {  # what pandas.read_table takes for no value, beside any case of nan and none
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "1.#IND", "1.#QNAN", "<NA>",
    "N/A", "NA", "NULL", "n/a", "null", "-nan",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MMBench:
    """MMBench; `annotations` is the TSV."""

    metric: ClassVar[str] = "circular_accuracy"

    annotations: str | Made = content()
    name: str = "mmbench"
    suffix: str = LETTER
    split: str = "dev_20230712"
    count: int | None = 4377  # rows, not questions; None: any number
    max_new_tokens: int = 1024

    def asked(self, store: Store) -> list[Question]:
        """A question for every row. Raises AnswerError: not the expected number of rows."""
        path = store.find(self.annotations)
        asked = []
        for index, row in self._rows(store).items():
            options = _options(row)
            said = [] if _missing(row["hint"]) else [row["hint"]]
            said.append(row["question"])
            said += [f"{letter}. {option}" for letter, option in options.items()]
            try:
                image = base64.b64decode(row["image"], validate=True)
            except binascii.Error as error:
                raise AnswerError(
                    f"{path}: image of index {index} is not base64: {error}"
                ) from error
            extra = {
                "round_id": 0,
                "options": list(options.values()),
                "option_char": list(options),
            }
            asked.append(Question(index, "\n".join(said) + self.suffix, image, extra))
        return asked

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        """Circular accuracy; `num` counts questions, not rows.

        Raises AnswerError: an answer is missing, doubled or foreign.
        """
        rows = self._rows(store)
        picked = self._picked(answers, rows)
        right = {index: picked[index] == row["answer"].strip() for index, row in rows.items()}
        hits = _circular(right)
        detail: dict[str, Any] = {
            "vanilla": 100 * fmean(right[index] for index in hits if index in right),
            "unresolved": sum(letter is None for letter in picked.values()),
            "rows": len(rows),
        }
        for sort in ("category", "l2-category"):
            kinds: dict[str, list[bool]] = {}
            for index, row in rows.items():
                if row.get(sort) and index in hits:
                    kinds.setdefault(row[sort], []).append(hits[index])
            detail[sort] = {kind: 100 * fmean(kinds[kind]) for kind in sorted(kinds)}
        return Scored(100 * fmean(hits.values()), len(hits), detail, Outcomes.mean(hits))

    def _picked(
        self, answers: list[dict[str, Any]], rows: dict[int, dict[str, str]]
    ) -> dict[int, str | None]:
        """The letter chosen in every row, None where it cannot be told."""
        lines = answer_lines(answers, self.name)
        said = join(rows, lines, lambda line: line["question_id"], benchmark=self.name)
        return {index: option_letter(said[index], _options(row)) for index, row in rows.items()}

    def _rows(self, store: Store) -> dict[int, dict[str, str]]:
        path = store.find(self.annotations)
        rows = by_key(_read(path), lambda row: int(row["index"]), path)
        expect(
            len(rows),
            self.count,
            what=f"{path}: rows",
            advice=f"take the TSV of {self.split}, or set count=null",
        )
        return rows


def _circular(right: dict[int, bool]) -> dict[int, bool]:
    """For every question, whether all its rows are right."""
    hits: dict[int, bool] = {}
    for index, hit in right.items():
        hits[index % _ROTATION] = hits.get(index % _ROTATION, True) and hit
    return hits


def _options(row: dict[str, str]) -> dict[str, str]:
    """Letter and text of the options, up to the first missing one."""
    options = {}
    for letter in _LETTERS:
        if _missing(row[letter]):
            break
        options[letter] = row[letter]
    return options


def _missing(cell: str) -> bool:
    return cell in _MISSING or cell.lower() in ("nan", "none")


def _read(path: Path) -> Iterator[dict[str, str]]:
    """The rows of the TSV. Raises AnswerError: a column, an index or the answer is not there."""
    limit = csv.field_size_limit(sys.maxsize)  # of the process; an image is longer than 128 KiB
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            if absent := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
                raise AnswerError(f"{path}: no column {', '.join(absent)}")
            for row in reader:
                where = f"{path}: line {reader.line_num}"
                if short := [name for name in _COLUMNS if row[name] is None]:
                    raise AnswerError(f"{where}: no {short[0]}, the line is cut short")
                if not row["index"].isdecimal():
                    raise AnswerError(f"{where}: index {row['index']!r} is not a number")
                if row["answer"].strip() not in _options(row):
                    raise AnswerError(
                        f"{where}: answer {row['answer']!r} is none of the options "
                        f"{', '.join(_options(row))}"
                    )
                yield row
    finally:
        csv.field_size_limit(limit)
