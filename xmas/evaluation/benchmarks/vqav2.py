"""VQAv2: short questions about photographs; VQA accuracy against ten annotators, in per cent.

Two benchmarks that never share a name. `vqav2` is a test split (`test-dev2015`, 107,394 of the
447,793 test questions): only the evaluation server has its truth, so answers are written for
upload, never scored here. `vqav2_val` is val2014 (214,354 questions), which has public
answers and is scored.

Questions: LLaVA's JSON lines, or the owners' `v2_OpenEnded_mscoco_*_questions.json`, to which
LLaVA's suffix is added. Truth: `v2_mscoco_val2014_annotations.json`. Predictions are first
normalised as LLaVA submits them (`scripts/convert_vqav2_for_submission.py`); then the rule of
GT-Vision-Lab/VQA's `vqaEval.py`: both sides are normalised unless all ten annotators gave the very
same answer, and each annotator is left out once. (Older versions of that script always normalise
the prediction, and of the truth only the punctuation.)

LLaVA's training mix has COCO's train2017 images, among them most of val2014's, though not their
questions; `only` (COCO's `instances_val2017.json`) restricts the questions to images of val2017.
"""

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from xmas.evaluation.facts import COCO, LLAVA_EVAL, Facts
from xmas.evaluation.json_files import (
    answer_lines,
    by_key,
    image_below,
    json_lines,
    json_object,
    json_rows,
    with_keys,
)
from xmas.evaluation.outcomes import Outcomes, pictures_of
from xmas.evaluation.protocol import SHORT, AnswerError, Question, Scored, expect, join
from xmas.evaluation.vqa_accuracy import agreement, evalai_answer, most_common, vqa_answer
from xmas.store import Made, Store, content, volatile
from xmas.store.label import file_name

log = logging.getLogger(__name__)

_ANNOTATORS = 10
_OWNERS = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"


@dataclasses.dataclass(frozen=True)
class VqaV2:
    """A test split: `questions` are asked, `everything` has all that the upload has to list."""

    name: ClassVar[str] = "vqav2"
    metric: ClassVar[str] = "vqa_accuracy"
    facts: ClassVar[Facts] = Facts(
        order=10,
        ten=True,
        has_truth=False,
        sources={
            "questions": LLAVA_EVAL,
            "everything": LLAVA_EVAL,
            "images": f"{COCO}/zips/test2015.zip",
        },
        listed_under="questions",
    )

    questions: str | Made = content()
    everything: str | Made = content()
    images: str | Made = volatile()
    split: str = "test-dev2015"
    count: int | None = 107_394  # of `questions`; None: any number
    total: int | None = 447_793  # of `everything`
    max_new_tokens: int = 128

    def asked(self, store: Store) -> list[Question]:
        """All questions, in the order of the file. Raises AnswerError: not the expected number."""
        path = store.find(self.questions)
        return _asked(_rows(path, self.count, self.split, "text", "image"), store.find(self.images))

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        """Raises AnswerError: the truth is not public."""
        raise AnswerError(
            f"vqav2: the answers of {self.split} are not public; goal=submission writes the file "
            "for the server, and benchmark=vqav2_val is what can be scored here"
        )

    def submit(self, answers: list[dict[str, Any]], store: Store, out: Path) -> Path:
        """The upload file: every test question with its processed answer, those not asked with "".

        Raises AnswerError: an answer to one of `questions` is missing, doubled or unknown.
        """
        rows = _rows(store.find(self.questions), self.count, self.split)
        texts = join(rows, answer_lines(answers, self.name), _key, benchmark=self.name)
        path = store.find(self.everything)
        everything = _rows(path, self.total, "test2015")
        if outside := [name for name in rows if name not in everything]:
            raise AnswerError(f"{path}: question {outside[0]} of {self.split} is not in it")
        upload = [
            {"question_id": name, "answer": evalai_answer(texts[name]) if name in texts else ""}
            for name in everything
        ]
        file = out / f"vqav2_{file_name(self.split)}.json"
        file.write_text(json.dumps(upload), encoding="utf-8")
        return file


@dataclasses.dataclass(frozen=True)
class VqaV2Val:
    """The validation split; `only` is a COCO file that lists the images to keep."""

    name: ClassVar[str] = "vqav2_val"
    metric: ClassVar[str] = "vqa_accuracy"
    facts: ClassVar[Facts] = Facts(
        order=11,
        stands_in_for="vqav2",
        images=40_504,
        sources={
            "questions": f"{_OWNERS}/v2_Questions_Val_mscoco.zip",
            "annotations": f"{_OWNERS}/v2_Annotations_Val_mscoco.zip",
            "only": f"{COCO}/annotations/annotations_trainval2017.zip",
            "images": f"{COCO}/zips/val2014.zip",
        },
        listed_under="questions",
    )

    questions: str | Made = content()
    annotations: str | Made = content()
    images: str | Made = volatile()
    only: str | Made | None = content(None)
    split: str = "val2014"
    count: int | None = 214_354  # before `only`; None: any number
    max_new_tokens: int = 128

    def asked(self, store: Store) -> list[Question]:
        """The questions about kept images, in the order of the file.

        Raises AnswerError: not the expected number, or none is left.
        """
        return _asked(self._kept(store, "text", "image"), store.find(self.images))

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        """VQA accuracy.

        Raises AnswerError: an answer or its truth is missing, doubled or unknown, or does not have
        ten annotators' answers.
        """
        if self.only is None and self.split == "val2014":
            log.warning(
                "vqav2_val: most of val2014's images are in COCO's train2017, which LLaVA's mix "
                "trains on; benchmark=vqav2_val2017 excludes them"
            )
        rows = self._kept(store)
        texts = join(rows, answer_lines(answers, self.name), _key, benchmark=self.name)
        truth = self._truth(store, rows, "question_type", "answer_type")
        values: dict[int, float] = {}
        kinds: dict[str, dict[str, list[float]]] = {"answer_type": {}, "question_type": {}}
        for name in rows:
            by_people = [entry["answer"] for entry in truth[name]["answers"]]
            values[name] = accuracy(evalai_answer(texts[name]), by_people)
            for sort, of_sort in kinds.items():
                of_sort.setdefault(truth[name][sort], []).append(values[name])
        detail = {
            sort: {kind: 100 * fmean(of_sort[kind]) for kind in sorted(of_sort)}
            for sort, of_sort in kinds.items()
        }
        outcomes = Outcomes.mean(values, pictures=pictures_of(rows))
        return Scored(100 * fmean(values.values()), len(values), detail, outcomes)

    def references(self, store: Store) -> list[str | None]:
        """What most annotators answered to every question of `asked`; None: no answer leads.

        Raises AnswerError: as `score`.
        """
        truth = self._truth(store, self._kept(store))
        return [
            most_common([entry["answer"] for entry in annotated["answers"]])
            for annotated in truth.values()
        ]

    def _truth(
        self, store: Store, rows: dict[int, dict[str, Any]], *keys: str
    ) -> dict[int, dict[str, Any]]:
        """The annotation of every question, with ten annotators' answers and `keys`."""
        path = store.find(self.annotations)
        annotated = json_rows(path, "annotations", "question_id", "answers", *keys)
        by_id = by_key(annotated, _key, path)
        for name in rows:
            if name not in by_id:
                raise AnswerError(f"{path}: no truth for question {name}")
            if (count := len(by_id[name]["answers"])) != _ANNOTATORS:
                raise AnswerError(f"{path}: question {name} has {count} answers, expected 10")
        return {name: by_id[name] for name in rows}

    def _kept(self, store: Store, *keys: str) -> dict[int, dict[str, Any]]:
        """The questions about kept images, each at least with its id and `keys`."""
        keys = keys if self.only is None else tuple({*keys, "image"})
        rows = _rows(store.find(self.questions), self.count, self.split, *keys)
        if self.split.startswith("test"):
            raise AnswerError(f"vqav2_val: {self.split} is a test split; benchmark=vqav2 asks it")
        if self.only is None:
            return rows
        if self.split == "val2014":
            raise AnswerError("vqav2_val: a part of val2014 needs another name in `split`")
        path = store.find(self.only)
        images = {f"{image['id']:012d}" for image in json_rows(path, "images", "id")}
        rows = {name: row for name, row in rows.items() if Path(row["image"]).stem[-12:] in images}
        if not rows:
            raise AnswerError(f"{path}: lists none of the questions' images")
        return rows


def accuracy(prediction: str, answers: list[str]) -> float:
    """Agreement of a model's answer, normalised for the server, with those of ten annotators."""
    plain = {text: text.replace("\n", " ").replace("\t", " ").strip() for text in set(answers)}
    if len(set(plain.values())) > 1:
        prediction = vqa_answer(prediction)
        plain = {text: vqa_answer(bare) for text, bare in plain.items()}
    return agreement(prediction, [plain[text] for text in answers])


def _rows(path: Path, count: int | None, split: str, *keys: str) -> dict[int, dict[str, Any]]:
    """The questions by id, as rows of LLaVA's files, from either of the two formats.

    Each has at least its id and `keys`, of `text` and `image`: scoring needs no more than the id.
    """
    if path.suffix == ".jsonl":
        rows = json_lines(path, "question_id", *keys)
    else:
        rows = list(_official(path, keys))
    advice = f"take the questions of {split}, or set the number to null"
    expect(len(rows), count, what=f"{path}: questions", advice=advice)
    return by_key(rows, _key, path)


def _official(path: Path, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The owners' questions as LLaVA asks them: id, image if known, `text` if `keys` say so."""
    content = json_object(path)
    with_keys(content, ("questions", *(["data_subtype"] if "image" in keys else [])), str(path))
    official = {"text": "question", "image": "image_id"}
    for number, row in enumerate(content["questions"]):
        where = f"{path}: question {number}"
        with_keys(row, ("question_id", *(official[key] for key in keys)), where)
        question = {"question_id": row["question_id"]}
        if "text" in keys:
            question["text"] = row["question"] + SHORT
        if "image_id" in row and "data_subtype" in content:
            images = content["data_subtype"].replace("test-dev", "test")
            question["image"] = f"COCO_{images}_{row['image_id']:012d}.jpg"
        yield question


def _asked(rows: dict[int, dict[str, Any]], images: Path) -> list[Question]:
    return [
        Question(name, row["text"], image_below(images, row["image"])) for name, row in rows.items()
    ]


def _key(row: dict[str, Any]) -> int:
    """Raises AnswerError: the id is not a number."""
    name = row["question_id"]
    if isinstance(name, str) and name.isdecimal():
        return int(name)
    if not isinstance(name, int):
        raise AnswerError(f"vqav2: question_id {name!r} is not a number")
    return name
