"""MMBench, English and Chinese: multiple choice, right only if right in every order of options.

Split `dev_20230712` (Chinese: `dev_cn_20231003`): 4,377 rows that are 1,176 questions, each asked
with its two, three or four options rotated. One TSV has questions, images (base64) and answers:
`mmbench_dev_20230712.tsv`, `mmbench_dev_cn_20231003.tsv`; the V1.1 files are another benchmark and
need another name. For Chinese set `name`, `split` and `suffix` (`CHINESE`). If the question file
has no answers, as that of a test split, `annotations` is another file, joined by index.

Circular accuracy: rows whose `index` agrees modulo a million are one question, a hit only if all
are right. Prompts are those of LLaVA's `model_vqa_mmbench.py`: hint, question, options up to the
first that pandas reads as missing, so an option "None" ends the list too. Official scoring asks a
language model what a free-form answer means; here `option_letter` decides without one, and an
answer that it cannot match is wrong (VLMEvalKit's "exact_matching"). LLaVA's answers are single
letters, for which both agree. VLMEvalKit's rules change: `matching` is their year.

The upload file is that of LLaVA's `scripts/convert_mmbench_for_submission.py`: the TSV as xlsx
without hint, category, source, image, comment and l2-category, with `prediction` in column 7.
"""

import base64
import binascii
import dataclasses
import re
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from xmas.evaluation.facts import Facts
from xmas.evaluation.json_files import answer_lines, by_key
from xmas.evaluation.outcomes import Outcomes, pictures_of
from xmas.evaluation.protocol import LETTER, AnswerError, Question, Scored, expect, join
from xmas.evaluation.spreadsheet import missing, read_tsv, write_sheet
from xmas.store import Made, Store, content, volatile
from xmas.store.label import file_name

CHINESE = "\n请直接回答选项字母。"
_LETTERS = "ABCD"
_PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_LAST_WORDS = 4  # among which the option's letter has to be
MATCHINGS = (2025, 2026)  # VLMEvalKit #1175 of July 2025, #1552 of May 2026
_DECLARED = re.compile(r"(?i)answer\s+is\s+\**([ABCD])")  # of VLMEvalKit #1552, without word end
_SCORED = ("index", *_LETTERS)  # the columns of the questions that scoring reads
_ASKED = ("index", "question", "hint", *_LETTERS, "image")
_NOT_UPLOADED = ("hint", "category", "source", "image", "comment", "l2-category")
_PREDICTION = 6  # columns before that of the predictions
_ROTATION = 1_000_000  # between the indices of two orders of one question
_Rows = dict[int, dict[str, str]]  # cells by column, or options by letter, of every index
_TSV = "https://download.openmmlab.com/mmclassification/datasets/mmbench/mmbench_{split}.tsv"


@dataclasses.dataclass(frozen=True)
class MMBench:
    """MMBench; `questions` is the TSV, `annotations` the TSV with the answers, mostly the same.

    `matching` is the year of VLMEvalKit's rules, see `option_letter`.
    """

    facts: ClassVar[Facts] = Facts(
        order=80,
        names=("mmbench_cn",),
        ten=True,
        seven=True,
        images=1176,  # one for every question; some share a picture
        sources=dict.fromkeys(("questions", "annotations"), _TSV),
        id_key="index",
        unit=lambda index: str(int(index) % _ROTATION),
    )

    questions: str | Made = content()
    annotations: str | Made = content()
    name: str = "mmbench"
    suffix: str = LETTER
    split: str = "dev_20230712"
    count: int | None = 4377  # rows, not questions; None: any number
    max_new_tokens: int = 1024
    matching: int = volatile(MATCHINGS[0])  # year of the rules

    def __post_init__(self) -> None:
        if self.matching not in MATCHINGS:
            raise ValueError(f"{self.name}.matching={self.matching!r}: expected 2025 or 2026")

    def corrections(self) -> dict[str, Any]:
        """`matching` came later: scores by the default's rules keep their keys."""
        return {} if self.matching == MATCHINGS[0] else {"matching": self.matching}

    @property
    def metric(self) -> str:
        """With the year of other rules than the default: their scores do not compare."""
        suffix = "" if self.matching == MATCHINGS[0] else f", matching of {self.matching}"
        return f"circular_accuracy{suffix}"

    def asked(self, store: Store) -> list[Question]:
        """A question for every row. Raises AnswerError: not the expected number of rows."""
        path = store.find(self.questions)
        questions = []
        for index, row in self._rows(store, _ASKED).items():
            options = _options(row)
            lines = [] if missing(row["hint"]) else [row["hint"]]
            lines.append(row["question"])
            lines += [f"{letter}. {option}" for letter, option in options.items()]
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
            questions.append(Question(index, "\n".join(lines) + self.suffix, image, extra))
        return questions

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        """Circular accuracy; `num` counts questions, not rows.

        Raises AnswerError: an answer is missing, doubled or unknown.
        """
        rows = self._rows(store, _SCORED)
        options = _options_of_all(rows)
        truth = self._truth(store, rows, options)
        letters = self._picked(answers, options)
        right = {index: letters[index] == truth[index] for index in rows}
        hits = _circular(right)
        detail: dict[str, Any] = {
            "vanilla": 100 * fmean(right[index] for index in hits if index in right),
            "unresolved": sum(letter is None for letter in letters.values()),
            "rows": len(rows),
        }
        for sort in ("category", "l2-category"):
            kinds: dict[str, list[bool]] = {}
            for index, row in rows.items():
                if row.get(sort) and index in hits:
                    kinds.setdefault(row[sort], []).append(hits[index])
            detail[sort] = {kind: 100 * fmean(kinds[kind]) for kind in sorted(kinds)}
        of_question = {index % _ROTATION: row for index, row in reversed(rows.items())}
        outcomes = Outcomes.mean(hits, pictures=pictures_of(of_question))
        return Scored(100 * fmean(hits.values()), len(hits), detail, outcomes)

    def references(self, store: Store) -> list[str | None]:
        """The right letter for every question of `asked`. Raises AnswerError: as `score`."""
        rows = self._rows(store, _SCORED)
        return list(self._truth(store, rows, _options_of_all(rows)).values())

    def submit(self, answers: list[dict[str, Any]], store: Store, out: Path) -> Path:
        """The upload file, an xlsx: every row with its answer, unchanged.

        Raises AnswerError: an answer is missing, doubled or unknown.
        """
        rows = self._rows(store, ("index",))
        lines = answer_lines(answers, self.name)
        texts = join(rows, lines, lambda line: line["question_id"], benchmark=self.name)
        columns = [name for name in next(iter(rows.values())) if name not in _NOT_UPLOADED]
        columns.insert(_PREDICTION, "prediction")
        cells = (
            [texts[index] if name == "prediction" else _cell(name, row[name]) for name in columns]
            for index, row in rows.items()
        )
        file = out / f"{file_name(f'{self.name}_{self.split}')}.xlsx"
        write_sheet(file, columns, cells)
        return file

    def _picked(self, answers: list[dict[str, Any]], options: _Rows) -> dict[int, str | None]:
        """The letter chosen in every row, None where the answer matches no option."""
        lines = answer_lines(answers, self.name)
        texts = join(options, lines, lambda line: line["question_id"], benchmark=self.name)
        return {
            index: option_letter(texts[index], of_row, self.matching)
            for index, of_row in options.items()
        }

    def _rows(self, store: Store, columns: tuple[str, ...]) -> _Rows:
        """The rows by index. Raises AnswerError: one of `columns` is missing."""
        path = store.find(self.questions)
        rows = by_key(read_tsv(path, columns), lambda row: int(row["index"]), path)
        expect(
            len(rows),
            self.count,
            what=f"{path}: rows",
            advice=f"take the TSV of {self.split}, or set count=null",
        )
        return rows

    def _truth(self, store: Store, rows: _Rows, options: _Rows) -> dict[int, str]:
        """The correct letter of every row. Raises AnswerError: it is missing or not an option."""
        path = store.find(self.annotations)
        answers = rows
        if path != store.find(self.questions) or "answer" not in next(iter(rows.values())):
            answer_rows = read_tsv(path, ("index", "answer"))
            answers = by_key(answer_rows, lambda row: int(row["index"]), path)
        truth = {}
        for index, of_row in options.items():
            if index not in answers:
                raise AnswerError(f"{path}: no answer to {index}")
            truth[index] = answers[index]["answer"].strip()
            if truth[index] not in of_row:
                raise AnswerError(
                    f"{path}: index {index}: answer {truth[index]!r} is none of the options "
                    f"{', '.join(of_row)}"
                )
        return truth


def option_letter(text: str, options: dict[str, str], matching: int = 2025) -> str | None:
    """The letter of the option that a free-form answer means, or None if it matches none.

    First by letters: exactly one of them occurs as a word, for the first time among the last four
    words; without this window the article in "A dog runs on the beach" would be an answer. Then by
    texts: exactly one option occurs in the answer, in any case, unless the answer is more than
    twice as long as all options together. "Z", by which models refuse, is never an option.

    With `matching` 2026 there is a third rule between the two: the first "answer is" that is
    followed by an option's letter, in any case and after any number of asterisks, so that "The
    answer is **B** because A is red" is B. So is "the answer is both".

    Source: VLMEvalKit, `vlmeval/utils/matching_util.py` (`can_infer`), without its list of API
    refusals: the rules since July 2025 (#1175), and those since May 2026 (#1552).
    """
    words = text.translate(_PUNCTUATION).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and words.index(letters[0]) >= len(words) - _LAST_WORDS:
        return letters[0]
    if not letters and "Z" in words:
        return None
    if matching == 2026:
        declared = _DECLARED.search(text)
        if declared and declared[1].upper() in options:
            return declared[1].upper()
    lowered = text.lower()
    if len(lowered) > 2 * sum(map(len, options.values())):
        return None
    contained = [letter for letter, option in options.items() if option.lower() in lowered]
    return contained[0] if len(contained) == 1 else None


def _circular(right: dict[int, bool]) -> dict[int, bool]:
    """For every question, whether all its rows are right."""
    hits: dict[int, bool] = {}
    for index, hit in right.items():
        hits[index % _ROTATION] = hits.get(index % _ROTATION, True) and hit
    return hits


def _options_of_all(rows: _Rows) -> _Rows:
    return {index: _options(row) for index, row in rows.items()}


def _options(row: dict[str, str]) -> dict[str, str]:
    """Letter and text of the options, up to the first missing one."""
    options = {}
    for letter in _LETTERS:
        if missing(row[letter]):
            break
        options[letter] = row[letter]
    return options


def _cell(column: str, text: str) -> str | int | None:
    """The spreadsheet's value for a cell of the TSV."""
    if missing(text):
        return None
    return int(text) if column == "index" else text
