"""MME: two yes/no questions per image; the sum over tasks of accuracy and accuracy+, 200 per task.

Split `perception`: ten tasks, at most 2,000 points, the number that papers report; the four
cognition tasks are in the detail if they are asked. Questions: LLaVA's `llava_mme.jsonl` (2,374 in
all fourteen tasks). Truth, either of: the release (`<task>/questions_answers_YN/*.txt` next to
`<task>/images`, or `<task>/*.txt`, lines `question<TAB>answer`), or `eval_tool/Your_Results`
(`<task>.txt`, lines `image<TAB>question<TAB>answer`). The second is text only and quick to hash.

The rule is that of `eval_tool/calculation.py`: only the first four characters of an answer count.
A task's accuracy is over questions; accuracy+ is over images, both of whose answers must be right.
LLaVA replaces "Please answer yes or no." by another suffix; this is undone to find the truth, as
LLaVA's `convert_answer_to_mme.py` does, and runs of spaces count as one. Two questions share an id
(their image): the key is task, image and question, so answer lines need their prompt. Repeated
training runs differ by some 20 points (LLaVA #680).
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from xmas.evaluation.facts import LLAVA_EVAL, Facts
from xmas.evaluation.json_files import answer_lines, by_key, image_below, json_lines
from xmas.evaluation.outcomes import Outcomes
from xmas.evaluation.protocol import SHORT, AnswerError, Question, Scored, expect, join
from xmas.evaluation.text_files import text_of
from xmas.store import Made, Store, content, volatile

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark",
    "artwork", "OCR",
)  # fmt: skip
COGNITION = (
    "commonsense_reasoning",
    "numerical_calculation",
    "text_translation",
    "code_reasoning",
)
_OFFICIAL_END = "Please answer yes or no."
_OWNERS = "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation"

Key = tuple[str, str, str]  # task, file name of the image up to its first dot, question


@dataclasses.dataclass(frozen=True)
class Mme:
    """MME; `annotations` is the folder of the truth, in any of the three layouts."""

    name: ClassVar[str] = "mme"
    metric: ClassVar[str] = "sum_acc_and_acc_plus"
    facts: ClassVar[Facts] = Facts(
        order=70,
        ten=True,
        seven=True,
        noisy=True,
        images=1187,
        sources={
            "questions": LLAVA_EVAL,
            "annotations": f"eval_tool.zip of {_OWNERS}",
            "images": f"MME's authors, as described at {_OWNERS}",
        },
        stratum=lambda unit: unit.rpartition("/")[0],  # the task, each of which weighs as much
    )

    questions: str | Made = content()
    annotations: str | Made = content()
    images: str | Made = volatile()
    split: str = "perception"
    count: int | None = 2374  # None: any number
    max_new_tokens: int = 128
    tasks: Sequence[str] = PERCEPTION  # that the headline sums over

    def asked(self, store: Store) -> list[Question]:
        """All questions, in the order of the file. Raises AnswerError: not the expected number."""
        images = store.find(self.images)
        return [
            Question(row["question_id"], row["text"], image_below(images, row["image"]))
            for row in self._rows(store, "image").values()
        ]

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        """Points summed over `tasks`.

        Raises AnswerError: an answer or its truth is missing, doubled or unknown, an image does not
        have two questions, or a task has none.
        """
        rows = self._rows(store)
        lines = answer_lines(answers, self.name, keys=("prompt",))
        texts = join(rows, lines, lambda line: _key(line, "prompt"), benchmark=self.name)
        rights: dict[str, dict[str, list[bool]]] = {}
        for name, answer in self._answers(store, rows).items():
            right = mme_answer(texts[name]) == answer
            rights.setdefault(name[0], {}).setdefault(name[1], []).append(right)
        parts = {task: _points(task, images) for task, images in sorted(rights.items())}
        if absent := [task for task in self.tasks if task not in parts]:
            raise AnswerError(f"mme: no question for {', '.join(absent)}; set tasks to those asked")
        if all(task in parts for task in COGNITION):
            parts["cognition"] = {"score": sum(parts[task]["score"] for task in COGNITION)}
        return Scored(
            score=sum(parts[task]["score"] for task in self.tasks),
            num=sum(len(pair) for task in self.tasks for pair in rights[task].values()),
            detail=parts,
            outcomes=_outcomes({task: rights[task] for task in self.tasks}),
        )

    def references(self, store: Store) -> list[str | None]:
        """For every question of `asked` yes or no, lower case. Raises AnswerError: as `score`."""
        return list(self._answers(store, self._rows(store)).values())

    def _answers(self, store: Store, rows: dict[Key, dict[str, Any]]) -> dict[Key, str]:
        """The right answer to every question."""
        path = store.find(self.annotations)
        truth = _truth(path, sorted({task for task, _, _ in rows}))
        for task, image, question in rows:
            if (task, image, question) not in truth:
                raise AnswerError(f"{path}: no truth for {task}, {image}: {question!r}")
        return {name: truth[name] for name in rows}

    def _rows(self, store: Store, *keys: str) -> dict[Key, dict[str, Any]]:
        """The questions, each at least with id, text and `keys`: scoring needs no image."""
        path = store.find(self.questions)
        rows = json_lines(path, "question_id", "text", *keys)
        advice = "take LLaVA's llava_mme.jsonl, or set count=null"
        expect(len(rows), self.count, what=f"{path}: questions", advice=advice)
        return by_key(rows, lambda row: _key(row, "text"), path)


def mme_answer(text: str) -> str:
    """Give "yes", "no" or "other", from the first four characters in lower case.

    "yes" anywhere in them wins over "no", so that "Nope" and "know" are "no", "I say yes" "other".
    Source: MME, `eval_tool/calculation.py`.
    """
    start = text.lower()[:4]
    return next((word for word in ("yes", "no") if word in start), "other")


def _points(task: str, images: dict[str, list[bool]]) -> dict[str, float]:
    """Accuracy, accuracy+ and their sum."""
    for image, pair in images.items():
        if len(pair) != 2:
            raise AnswerError(f"mme: {task}, {image} has {len(pair)} questions, expected 2")
    acc = 100 * fmean(right for pair in images.values() for right in pair)
    acc_plus = 100 * fmean(all(pair) for pair in images.values())
    return {"acc": acc, "acc_plus": acc_plus, "score": acc + acc_plus}


def _outcomes(rights: dict[str, dict[str, list[bool]]]) -> Outcomes:
    """An image is a unit: its two questions are right or wrong together."""
    units = {
        (task, image): {f"{task} acc": (sum(pair), 2), f"{task} acc+": (all(pair), 1)}
        for task, images in rights.items()
        for image, pair in images.items()
    }
    return Outcomes.of(units, {term: 100 for parts in units.values() for term in parts})


def _key(row: dict[str, Any], text: str) -> Key:
    """The key of a question (text in `text`) or of an answer line (text in `prompt`)."""
    parts = str(row["question_id"]).split("/")
    return parts[0], _stem(parts[-1]), _question(row[text])


def _stem(file: str) -> str:
    return file.split(".")[0]


def _question(text: str) -> str:
    """The bare question: no request how to answer, single spaces."""
    return " ".join(text.replace(SHORT.strip(), " ").replace(_OFFICIAL_END, " ").split())


def _truth(root: Path, tasks: list[str]) -> dict[Key, str]:
    """The answer, "yes" or "no", to every question of `tasks`.

    Raises AnswerError: one is malformed or is in the file twice.
    """
    answers: dict[Key, str] = {}
    for task in tasks:
        for where, image, question, answer in _truth_lines(root, task):
            name = (task, _stem(image), _question(question))
            if name in answers:
                raise AnswerError(f"{where}: {name!r} is in the file twice")
            answers[name] = answer.strip().lower()
            if answers[name] not in ("yes", "no"):
                raise AnswerError(f"{where}: answer {answer!r}, expected Yes or No")
    return answers


def _truth_lines(root: Path, task: str) -> Iterator[tuple[str, str, str, str]]:
    """(where, image, question, answer) of every line of a task."""
    task_file = root / f"{task}.txt"
    inner = root / task / "questions_answers_YN"
    folder = inner if inner.is_dir() else root / task
    files = [task_file] if task_file.is_file() else sorted(folder.glob("*.txt"))
    if not files:
        raise AnswerError(
            f"{root}: no truth for task {task!r}; expected {task}.txt, {task}/*.txt or "
            f"{task}/questions_answers_YN/*.txt"
        )
    for file in files:
        for number, line in enumerate(text_of(file).split("\n"), start=1):
            if not line.strip():
                continue
            cells = line.strip().split("\t")
            if file != task_file:
                cells.insert(0, file.name)
            if len(cells) != 3:
                raise AnswerError(
                    f"{file}: line {number} does not have the expected columns: {line!r}"
                )
            yield f"{file}: line {number}", cells[0], cells[1], cells[2]
