"""POPE: is an object in the image? The mean of three F1 scores, times 100.

Split `coco`: adversarial (3,000 questions), popular (3,000) and random (2,910). Questions: LLaVA's
`llava_pope_test.jsonl`; truth: a folder of `coco_pope_<category>.json` as of POPE commit e3e39262.
The rule is LLaVA's (`llava/eval/eval_pope.py`): "NO" and the empty answer count as yes.

Deviations from that script. It pairs predictions and labels by position, which with POPE's later
`random` file (3,000 rows) silently gives about half the correct F1; here a label is found by
category, id and image. LLaVA's ids encode the category in their millions (popular question 7 is
20000007), POPE's do not. Question and label must have the same wording, except for what POPE
corrected later ("an umbrella in the imange"). Where the script divides by zero (no "yes" at all),
precision, recall or F1 is 0.
"""

import dataclasses
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from xmas.evaluation.facts import COCO, LLAVA_EVAL, Facts
from xmas.evaluation.json_files import answer_lines, by_key, image_below, json_lines
from xmas.evaluation.outcomes import Outcomes, pictures_of
from xmas.evaluation.protocol import SHORT, AnswerError, Question, Scored, expect, join
from xmas.store import Made, Store, content, volatile

OFFICIAL = {"adversarial": 3000, "popular": 3000, "random": 2910}
_CATEGORY_STEP = 10_000_000  # between the ids of two categories in LLaVA's file


@dataclasses.dataclass(frozen=True)
class Pope:
    """POPE; `annotations` is the folder of label files, one per category."""

    name: ClassVar[str] = "pope"
    metric: ClassVar[str] = "mean_f1"
    facts: ClassVar[Facts] = Facts(
        order=60,
        ten=True,
        seven=True,
        images=500,
        sources={
            "questions": LLAVA_EVAL,
            "annotations": "https://github.com/AoiDragon/POPE/tree/"
            "e3e39262c85a6a83f26cf5094022a782cb0df58d/output/coco, that very commit",
            "images": f"{COCO}/zips/val2014.zip",
        },
    )

    questions: str | Made = content()
    annotations: str | Made = content()
    images: str | Made = volatile()
    split: str = "coco"
    count: int | None = 8910  # None: any number, of any category
    max_new_tokens: int = 128

    def asked(self, store: Store) -> list[Question]:
        """All questions, in the order of the file. Raises AnswerError: not the expected number."""
        images = store.find(self.images)
        return [
            Question(row["question_id"], row["text"], image_below(images, row["image"]))
            for row in self._rows(store).values()
        ]

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        """Mean F1 over the categories.

        Raises AnswerError: an answer or a label is missing, doubled or unknown, or a label file is
        of another release.
        """
        rows = self._rows(store)
        texts = join(rows, answer_lines(answers, self.name), _id, benchmark=self.name)
        categories = sorted({row["category"] for row in rows.values()})
        pairs: dict[str, list[tuple[bool, bool]]] = {category: [] for category in categories}
        units = {}
        for name, truth in self._truth(store, rows).items():
            claim, category = pope_answer(texts[name]) == "yes", rows[name]["category"]
            pairs[category].append((claim, truth))
            units[name] = {category: (2 * (claim and truth), claim + truth)}
        detail = {category: measures(of_category) for category, of_category in pairs.items()}
        weights = dict.fromkeys(categories, 100 / len(categories))
        f1 = fmean(metrics["f1"] for metrics in detail.values())
        outcomes = Outcomes.of(units, weights, pictures=pictures_of(rows))
        return Scored(f1, len(rows), detail, outcomes)

    def references(self, store: Store) -> list[str | None]:
        """For every question of `asked` yes or no, lower case. Raises AnswerError: as `score`."""
        truth = self._truth(store, self._rows(store))
        return ["yes" if present else "no" for present in truth.values()]

    def _truth(self, store: Store, rows: dict[int, dict[str, Any]]) -> dict[int, bool]:
        """Whether the object of every question is in its image."""
        labels = self._labels(store, sorted({row["category"] for row in rows.values()}))
        folder = store.find(self.annotations)
        return {name: _label(row, labels[row["category"]], folder) for name, row in rows.items()}

    def _rows(self, store: Store) -> dict[int, dict[str, Any]]:
        path = store.find(self.questions)
        rows = json_lines(path, "question_id", "text", "image", "category")
        advice = "take LLaVA's llava_pope_test.jsonl, or set count=null"
        expect(len(rows), self.count, what=f"{path}: questions", advice=advice)
        for row in rows:
            if not isinstance(row["question_id"], int):
                raise AnswerError(f"{path}: question_id {row['question_id']!r} is not a number")
        return by_key(rows, _id, path)

    def _labels(self, store: Store, categories: list[str]) -> dict[str, dict[Any, dict[str, Any]]]:
        """For every category, the label rows by (id, image)."""
        folder = store.find(self.annotations)
        labels = {}
        for category in categories:
            path = folder / f"coco_pope_{category}.json"
            if not path.exists():
                raise AnswerError(f"{path}: no such file, but category {category!r} is asked")
            rows = json_lines(path, "question_id", "image", "text", "label")
            if self.count == sum(OFFICIAL.values()):
                expect(
                    len(rows),
                    OFFICIAL.get(category),
                    what=f"{path}: labels",
                    advice="another release; take output/coco of the POPE repository at commit "
                    "e3e39262, as LLaVA did",
                )
            labels[category] = by_key(rows, _label_key, path)
        return labels


def pope_answer(text: str) -> str:
    """Give "no" if the first sentence has the word No, no or not, else "yes".

    So an empty answer, "NO" and "no!" are all "yes".
    Source: LLaVA, `llava/eval/eval_pope.py`.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"}.intersection(words) else "yes"


def measures(pairs: list[tuple[bool, bool]]) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and share of "yes", in per cent, of (claim, truth) pairs."""
    hits = sum(claim and truth for claim, truth in pairs)
    claims = sum(claim for claim, _ in pairs)
    present = sum(truth for _, truth in pairs)
    return {
        "accuracy": 100 * fmean(claim == truth for claim, truth in pairs),
        "precision": 100 * hits / claims if claims else 0.0,
        "recall": 100 * hits / present if present else 0.0,
        "f1": 200 * hits / (claims + present) if claims + present else 0.0,
        "yes_ratio": 100 * fmean(claim for claim, _ in pairs),
    }


def _id(row: dict[str, Any]) -> int | str:
    return row["question_id"]


def _label_key(row: dict[str, Any]) -> tuple[int, str]:
    return row["question_id"] % _CATEGORY_STEP, row["image"]


def _label(asked: dict[str, Any], labels: dict[Any, dict[str, Any]], folder: Path) -> bool:
    """Whether the object is there. Raises AnswerError: no label, or one for another question."""
    row = labels.get(_label_key(asked))
    if row is None:
        raise AnswerError(f"{_named(asked, folder)} has no label")
    question = asked["text"].removesuffix(SHORT)
    if row["text"] != question and _wording(row["text"]) != _wording(question):
        raise AnswerError(
            f"{_named(asked, folder)}: asked is {asked['text']!r}, the label is for {row['text']!r}"
        )
    if row["label"] not in ("yes", "no"):
        raise AnswerError(
            f"{_named(asked, folder)}: label {row['label']!r}, expected 'yes' or 'no'"
        )
    return row["label"] == "yes"


def _named(asked: dict[str, Any], folder: Path) -> str:
    """Which question an error is about."""
    return f"{folder}: {asked['category']}, question {asked['question_id']} on {asked['image']}"


def _wording(text: str) -> list[str]:
    """The words that tell one question from another."""
    words = text.removesuffix(SHORT).replace("imange", "image").lower().split()
    return [word for word in words if word not in ("a", "an")]
