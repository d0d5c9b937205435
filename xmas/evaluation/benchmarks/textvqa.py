"""TextVQA: questions about the text in a photograph; soft accuracy, in per cent.

Split `val_v051`, 5,000 questions. Two benchmarks that never share a name: the prompts of `textvqa`
contain the tokens of an OCR system, as LLaVA's do; those of `textvqa_noocr` do not, which costs
about 12 points (13B: 61.3 in the paper, 48.7 without). Questions: LLaVA's
`llava_textvqa_val_v051_ocr.jsonl`, or the owners' `TextVQA_0.5.1_val.json`, from which the prompts
are built; for `textvqa` this also needs the OCR tokens, `ocr`: a
`TextVQA_Rosetta_OCR_v0.2_val.json`. Truth: `TextVQA_0.5.1_val.json`.

An id is the image's and repeats (1,834 times), so the key is image and question in lower case; the
question is the first line of the prompt, which LLaVA capitalises. The rule is that of LLaVA's
`eval_textvqa.py` with `m4c_evaluator.py`: the EvalAI normaliser on both sides, then the mean over
ten annotators of min(1, n / 3), where n of the other nine agree.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from xmas.evaluation.facts import LLAVA_EVAL, Facts
from xmas.evaluation.json_files import answer_lines, by_key, image_below, json_lines, json_rows
from xmas.evaluation.outcomes import Outcomes
from xmas.evaluation.protocol import SHORT, AnswerError, Question, Scored, expect, join
from xmas.evaluation.vqa_accuracy import agreement, evalai_answer, most_common
from xmas.store import Made, Store, content, volatile

_OCR = "\nReference OCR token: "
_ANNOTATORS = 10
_OWNERS = "https://dl.fbaipublicfiles.com/textvqa"
_OWNERS_FILES = {
    "annotations": f"{_OWNERS}/data/TextVQA_0.5.1_val.json",
    "ocr": f"{_OWNERS}/data/TextVQA_Rosetta_OCR_v0.2_val.json",
    "images": f"{_OWNERS}/images/train_val_images.zip",
}

Key = tuple[str, str]  # image, question in lower case


@dataclasses.dataclass(frozen=True)
class TextVqa:
    """TextVQA as LLaVA asks it, with OCR tokens in the prompt."""

    name: ClassVar[str] = "textvqa"
    metric: ClassVar[str] = "soft_accuracy"
    has_ocr: ClassVar[bool] = True
    facts: ClassVar[Facts] = Facts(
        order=50,
        ten=True,
        seven=True,
        images=3166,
        sources={"questions": LLAVA_EVAL, **_OWNERS_FILES},
        listed_under="data",
        id_key="image_id",
    )

    questions: str | Made = content()
    annotations: str | Made = content()
    images: str | Made = volatile()
    ocr: str | Made | None = content(None)  # with the owners' questions only
    split: str = "val_v051"
    count: int | None = 5000  # None: any number
    max_new_tokens: int = 128

    def asked(self, store: Store) -> list[Question]:
        """All questions, in the order of the file.

        Raises AnswerError: not the expected number, or prompts of the other of the two benchmarks.
        """
        images = store.find(self.images)
        return [
            Question(row["question_id"], row["text"], image_below(images, row["image"]))
            for row in self._rows(store, "image").values()
        ]

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        """Soft accuracy.

        Raises AnswerError: an answer or its truth is missing, doubled or unknown, answers a prompt
        of the other benchmark, or does not have ten annotators' answers.
        """
        rows = self._rows(store)
        lines = answer_lines(answers, self.name, keys=("prompt",))
        for number, line in enumerate(lines, start=1):
            if (_OCR in line["prompt"]) != self.has_ocr:
                raise self._of_the_other(f"{self.name}: answer line {number}")
        texts = join(rows, lines, lambda line: _key(line, "prompt"), benchmark=self.name)
        values: dict[Key, float] = {}
        for name, answers_of_people in self._truth(store, rows).items():
            by_people = [evalai_answer(answer) for answer in answers_of_people]
            values[name] = agreement(evalai_answer(texts[name]), by_people)
        outcomes = Outcomes.mean(values, pictures={name: name[0] for name in values})
        return Scored(100 * fmean(values.values()), len(values), {}, outcomes)

    def references(self, store: Store) -> list[str | None]:
        """What most annotators answered to every question of `asked`; None: no answer leads.

        Raises AnswerError: as `score`.
        """
        return [most_common(answers) for answers in self._truth(store, self._rows(store)).values()]

    def _truth(self, store: Store, rows: Iterable[Key]) -> dict[Key, list[str]]:
        """The ten annotators' answers to every question."""
        path = store.find(self.annotations)
        annotated = json_rows(path, "data", "image_id", "question", "answers")
        truth = by_key(annotated, lambda row: (row["image_id"], row["question"].lower()), path)
        for name in rows:
            if name not in truth:
                raise AnswerError(f"{path}: no truth for {name[1]!r} on {name[0]}")
            if (count := len(truth[name]["answers"])) != _ANNOTATORS:
                raise AnswerError(f"{path}: {name} has {count} answers, expected 10")
        return {name: truth[name]["answers"] for name in rows}

    def _rows(self, store: Store, *keys: str) -> dict[Key, dict[str, Any]]:
        """The questions, each at least with id, text and `keys`: scoring needs no image."""
        path = store.find(self.questions)
        if path.suffix == ".jsonl":
            rows = json_lines(path, "question_id", "text", *keys)
        else:
            rows = _official(path, None if self.ocr is None else store.find(self.ocr))
        advice = "take LLaVA's llava_textvqa_val_v051_ocr.jsonl, or set count=null"
        expect(len(rows), self.count, what=f"{path}: questions", advice=advice)
        for row in rows:
            if (_OCR in row["text"]) != self.has_ocr:
                raise self._of_the_other(f"{path}: {row['question_id']}")
        return by_key(rows, lambda row: _key(row, "text"), path)

    def _of_the_other(self, where: str) -> AnswerError:
        """The error for a prompt of the other of the two benchmarks."""
        content = "has no OCR tokens" if self.has_ocr else "has OCR tokens"
        benchmark = "textvqa_noocr" if self.has_ocr else "textvqa"
        remedy = ", or set `ocr` to the file with the tokens" if self.has_ocr else ""
        return AnswerError(f"{where}: the prompt {content}; that is {benchmark}{remedy}")


@dataclasses.dataclass(frozen=True)
class TextVqaNoOcr(TextVqa):
    """TextVQA without OCR tokens: another benchmark, with lower scores."""

    name: ClassVar[str] = "textvqa_noocr"
    has_ocr: ClassVar[bool] = False
    facts: ClassVar[Facts] = Facts(
        order=51,
        images=3166,
        sources={"questions": _OWNERS_FILES["annotations"], **_OWNERS_FILES},
        listed_under="data",
        id_key="image_id",
    )


def _official(path: Path, ocr: Path | None) -> list[dict[str, Any]]:
    """The owners' questions as LLaVA asks them, with the OCR tokens of the file `ocr`."""
    rows = json_rows(path, "data", "image_id", "question")
    tokens: dict[str, list[str]] | None = None
    if ocr is not None:
        tokens = {
            row["image_id"]: row["ocr_tokens"]
            for row in json_rows(ocr, "data", "image_id", "ocr_tokens")
        }
    questions = []
    for row in rows:
        image, text = row["image_id"], row["question"].capitalize()
        if tokens is not None:
            if image not in tokens:
                raise AnswerError(f"{ocr}: no OCR tokens of image {image}")
            text += _OCR + ", ".join(tokens[image])
        questions.append({"question_id": image, "text": text + SHORT, "image": f"{image}.jpg"})
    return questions


def _key(row: dict[str, Any], text: str) -> Key:
    """The key of a question (text in `text`) or of an answer line (text in `prompt`)."""
    return str(row["question_id"]), row[text].split("\n")[0].lower()
