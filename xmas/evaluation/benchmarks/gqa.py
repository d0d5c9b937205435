"""GQA: short questions about relations in a scene; exact-match accuracy, in per cent.

Split `testdev_balanced`, 12,578 questions. Questions: LLaVA's `llava_gqa_testdev_balanced.jsonl`;
truth: `testdev_balanced_questions.json` of GQA 1.2. The rule is that of LLaVA's
`scripts/convert_gqa_for_eval.py` followed by GQA's `eval.py`: lower case, full stops at the end
dropped, then equal or not, so "yes, it is" is wrong where "yes" is right.

The detail has the accuracy of binary (all but the structural type `query`) and open questions, and
of every structural and semantic type, over the questions whose truth names their types. Validity,
plausibility, grounding and consistency are not computed: GQA 1.2 lacks the files that they need.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from statistics import fmean
from typing import Any, ClassVar

from xmas.evaluation.facts import LLAVA_EVAL, Facts
from xmas.evaluation.json_files import (
    answer_lines,
    by_key,
    image_below,
    json_lines,
    json_object,
    with_keys,
)
from xmas.evaluation.outcomes import Outcomes, pictures_of
from xmas.evaluation.protocol import AnswerError, Question, Scored, expect, join
from xmas.store import Made, Store, content, volatile


@dataclasses.dataclass(frozen=True)
class Gqa:
    """GQA; `annotations` is a JSON object of questions by id."""

    name: ClassVar[str] = "gqa"
    metric: ClassVar[str] = "accuracy"
    facts: ClassVar[Facts] = Facts(
        order=20,
        ten=True,
        seven=True,
        images=398,
        sources={
            "questions": LLAVA_EVAL,
            "annotations": "questions1.2.zip of "
            "https://cs.stanford.edu/people/dorarad/gqa/download.html",
            "images": "https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip",
        },
    )

    questions: str | Made = content()
    annotations: str | Made = content()
    images: str | Made = volatile()
    split: str = "testdev_balanced"
    count: int | None = 12_578  # None: any number
    max_new_tokens: int = 128

    def asked(self, store: Store) -> list[Question]:
        """All questions, in the order of the file. Raises AnswerError: not the expected number."""
        images = store.find(self.images)
        return [
            Question(row["question_id"], row["text"], image_below(images, row["image"]))
            for row in self._rows(store, "text", "image").values()
        ]

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        """Accuracy. Raises AnswerError: an answer or its truth is missing, doubled or unknown."""
        rows = self._rows(store)
        texts = join(rows, answer_lines(answers, self.name), _key, benchmark=self.name)
        correct: dict[str, bool] = {}
        of_types: dict[tuple[str | None, str | None], list[bool]] = {}
        for name, question in self._truth(store, rows).items():
            correct[name] = gqa_answer(texts[name]) == question["answer"]
            types = question.get("types", {})
            both = types.get("structural"), types.get("semantic")
            of_types.setdefault(both, []).append(correct[name])
        kinds: dict[str, list[bool]] = {}
        for (structural, semantic), rights in of_types.items():
            for kind in _kinds(structural, semantic):
                kinds.setdefault(kind, []).extend(rights)
        return Scored(
            score=100 * fmean(correct.values()),
            num=len(correct),
            detail={kind: 100 * fmean(kinds[kind]) for kind in sorted(kinds)},
            outcomes=Outcomes.mean(correct, pictures=pictures_of(rows)),
        )

    def references(self, store: Store) -> list[str | None]:
        """The answer to every question of `asked`. Raises AnswerError: one has no truth."""
        return [truth["answer"] for truth in self._truth(store, self._rows(store)).values()]

    def _rows(self, store: Store, *keys: str) -> dict[str, dict[str, Any]]:
        """The questions, each at least with its id and `keys`; scoring needs the id alone."""
        path = store.find(self.questions)
        rows = json_lines(path, "question_id", *keys)
        expect(
            len(rows),
            self.count,
            what=f"{path}: questions",
            advice="take LLaVA's llava_gqa_testdev_balanced.jsonl, or set count=null",
        )
        return by_key(rows, _key, path)

    def _truth(self, store: Store, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The annotations of these questions, in their order.

        Raises AnswerError: one is missing, or is not what GQA's are; names file, question, value.
        """
        path = store.find(self.annotations)
        content = json_object(path)
        truth = {}
        for name in names:
            if name not in content:
                raise AnswerError(f"{path}: no truth for question {name!r}")
            question = content[name]
            if not isinstance(question, dict) or "answer" not in question:
                with_keys(question, ("answer",), f"{path}: question {name!r}")  # raises
            if not _are_types(question.get("types", {})):
                raise AnswerError(
                    f"{path}: question {name!r} has `types` {question['types']!r:.120}, expected "
                    "an object whose `structural` and `semantic` are texts; take GQA 1.2's file, "
                    "or leave `types` out"
                )
            truth[name] = question
        return truth


def gqa_answer(text: str) -> str:
    """Lower case without full stops at the end; nothing else is normalised, not even spaces.

    Source: LLaVA, `scripts/convert_gqa_for_eval.py`.
    """
    return text.rstrip(".").lower()


def _are_types(types: Any) -> bool:
    """Whether the detail can group a question by these; each of the two may be missing or null."""
    return isinstance(types, dict) and all(
        isinstance(types.get(kind), str | None) for kind in ("structural", "semantic")
    )


def _kinds(structural: str | None, semantic: str | None) -> Iterator[str]:
    """The groups of the detail that have the questions of these types."""
    if structural is not None:
        yield "open" if structural == "query" else "binary"
        yield f"structural: {structural}"
    if semantic is not None:
        yield f"semantic: {semantic}"


def _key(row: dict[str, Any]) -> str:
    return str(row["question_id"])
