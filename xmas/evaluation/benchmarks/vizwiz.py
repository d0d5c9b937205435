"""VizWiz: questions of blind people about their own photographs; VQA accuracy, in per cent.

Two benchmarks that never share a name. `vizwiz` is the test split (8,000 questions), whose answers
only the evaluation server has: its answers are written for upload (phase test-standard, LLaVA
#1733), never scored here. `vizwiz_val` is the validation split (4,319), scored from `val.json` of
the owners' Annotations.zip.

Questions: LLaVA's `llava_test.jsonl`, or the owners' JSON, from which LLaVA's prompt is built: the
question with its first letter capitalised and all others in lower case, the instruction to answer
"Unanswerable" when in doubt, and LLaVA's suffix. An image has one question, so its file name is the
key. The rule of `vizwiz_val`: the EvalAI normaliser on both sides, then the mean over ten
annotators of min(1, n / 3), where n of the other nine agree. The detail has the accuracy by answer
type, and how often "unanswerable" is predicted and is right.
"""

import dataclasses
import json
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from xmas.evaluation.facts import LLAVA_EVAL, Facts
from xmas.evaluation.json_files import answer_lines, by_key, image_below, json_lines, json_rows
from xmas.evaluation.outcomes import Outcomes
from xmas.evaluation.protocol import SHORT, AnswerError, Question, Scored, expect, join
from xmas.evaluation.vqa_accuracy import agreement, evalai_answer, most_common
from xmas.store import Made, Store, content, volatile
from xmas.store.label import file_name

UNSURE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
_ANNOTATORS = 10
_OWNERS = "https://vizwiz.cs.colorado.edu/VizWiz_final"
_ANNOTATIONS = f"{_OWNERS}/vqa_data/Annotations.zip"
_UNANSWERABLE = "unanswerable"


@dataclasses.dataclass(frozen=True)
class VizWiz:
    """The test split."""

    name: ClassVar[str] = "vizwiz"
    metric: ClassVar[str] = "vqa_accuracy"
    facts: ClassVar[Facts] = Facts(
        order=30,
        ten=True,
        has_truth=False,
        sources={
            "questions": f"{LLAVA_EVAL}, or test.json of {_ANNOTATIONS}",
            "images": f"{_OWNERS}/images/test.zip",
        },
        id_key="image",
    )

    questions: str | Made = content()
    images: str | Made = volatile()
    split: str = "test"
    count: int | None = 8000  # None: any number
    max_new_tokens: int = 128

    def asked(self, store: Store) -> list[Question]:
        """All questions, in the order of the file. Raises AnswerError: not the expected number."""
        rows = _rows(store.find(self.questions), self.count, "text")
        return _asked(rows, store.find(self.images))

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        """Raises AnswerError: the truth is not public."""
        raise AnswerError(
            f"vizwiz: the answers of {self.split} are not public; goal=submission writes the file "
            "for the server, and benchmark=vizwiz_val is what can be scored here"
        )

    def submit(self, answers: list[dict[str, Any]], store: Store, out: Path) -> Path:
        """The upload file: every image with its processed answer.

        Raises AnswerError: an answer is missing, doubled or unknown.
        """
        rows = _rows(store.find(self.questions), self.count)
        texts = _texts(rows, answers, self.name)
        upload = [
            {"image": row["image"], "answer": evalai_answer(texts[name])}
            for name, row in rows.items()
        ]
        file = out / f"vizwiz_{file_name(self.split)}.json"
        file.write_text(json.dumps(upload, ensure_ascii=False), encoding="utf-8")
        return file


@dataclasses.dataclass(frozen=True)
class VizWizVal:
    """The validation split."""

    name: ClassVar[str] = "vizwiz_val"
    metric: ClassVar[str] = "vqa_accuracy"
    facts: ClassVar[Facts] = Facts(
        order=31,
        stands_in_for="vizwiz",
        sources={
            "questions": f"val.json of {_ANNOTATIONS}",
            "annotations": f"val.json of {_ANNOTATIONS}",
            "images": f"{_OWNERS}/images/val.zip",
        },
        id_key="image",
    )

    questions: str | Made = content()
    annotations: str | Made = content()
    images: str | Made = volatile()
    split: str = "val"
    count: int | None = 4319  # None: any number
    max_new_tokens: int = 128

    def asked(self, store: Store) -> list[Question]:
        """All questions, in the order of the file. Raises AnswerError: not the expected number."""
        rows = _rows(store.find(self.questions), self.count, "text")
        return _asked(rows, store.find(self.images))

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        """VQA accuracy.

        Raises AnswerError: an answer or its truth is missing, doubled or unknown, or does not have
        ten annotators' answers.
        """
        if self.split.startswith("test"):
            raise AnswerError(f"vizwiz_val: {self.split} is a test split; benchmark=vizwiz asks it")
        rows = _rows(store.find(self.questions), self.count)
        texts = _texts(rows, answers, self.name)
        truth = self._truth(store, rows)
        values: dict[str, float] = {}
        kinds: dict[str, list[float]] = {}
        unanswerable: list[tuple[bool, bool]] = []  # according to the model, and to most annotators
        for name, annotated in truth.items():
            by_people = [evalai_answer(entry["answer"]) for entry in annotated["answers"]]
            answer = evalai_answer(texts[name])
            values[name] = agreement(answer, by_people)
            kinds.setdefault(annotated.get("answer_type", "unknown"), []).append(values[name])
            most = 2 * by_people.count(_UNANSWERABLE) > _ANNOTATORS
            unanswerable.append((answer == _UNANSWERABLE, most))
        detail = {
            "answer_type": {kind: 100 * fmean(kinds[kind]) for kind in sorted(kinds)},
            "said_unanswerable": 100 * fmean(predicted for predicted, _ in unanswerable),
            "unanswerable": 100 * fmean(truth for _, truth in unanswerable),
        }
        return Scored(100 * fmean(values.values()), len(values), detail, Outcomes.mean(values))

    def references(self, store: Store) -> list[str | None]:
        """What most annotators answered to every question of `asked`; None: no answer leads.

        Raises AnswerError: as `score`.
        """
        truth = self._truth(store, _rows(store.find(self.questions), self.count))
        return [
            most_common([entry["answer"] for entry in annotated["answers"]])
            for annotated in truth.values()
        ]

    def _truth(self, store: Store, rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The annotation of every question, with ten annotators' answers."""
        path = store.find(self.annotations)
        annotated = json_rows(path, None, "image", "answers")
        by_image = by_key(annotated, lambda row: row["image"], path)
        truth = {}
        for name, row in rows.items():
            if row["image"] not in by_image:
                raise AnswerError(f"{path}: no truth for {row['image']}")
            truth[name] = by_image[row["image"]]
            if (count := len(truth[name]["answers"])) != _ANNOTATORS:
                raise AnswerError(f"{path}: {row['image']} has {count} answers, expected 10")
        return truth


def _rows(path: Path, count: int | None, *keys: str) -> dict[str, dict[str, Any]]:
    """The questions by id, as rows of LLaVA's files, from either of the two formats.

    Each has at least its id, its image and `keys`: scoring needs no `text`.
    """
    if path.suffix == ".jsonl":
        rows = json_lines(path, "question_id", "image", *keys)
    else:
        has_text = "text" in keys
        rows = []
        for row in json_rows(path, None, "image", *(["question"] if has_text else [])):
            question = {"question_id": row["image"], "image": row["image"]}
            if has_text:
                question["text"] = row["question"].capitalize() + UNSURE + SHORT
            rows.append(question)
    advice = "take LLaVA's llava_test.jsonl or the owners' val.json, or set count=null"
    expect(len(rows), count, what=f"{path}: questions", advice=advice)
    return by_key(rows, _key, path)


def _asked(rows: dict[str, dict[str, Any]], images: Path) -> list[Question]:
    return [
        Question(row["question_id"], row["text"], image_below(images, row["image"]))
        for row in rows.values()
    ]


def _texts(
    rows: dict[str, dict[str, Any]], answers: list[dict[str, Any]], benchmark: str
) -> dict[Any, str]:
    return join(rows, answer_lines(answers, benchmark), _key, benchmark=benchmark)


def _key(row: dict[str, Any]) -> str:
    return str(row["question_id"])
