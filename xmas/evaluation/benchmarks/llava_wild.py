"""LLaVA-Bench (in the wild): free-form answers; a judge's grades relative to a reference's, in %.

60 questions (17 conversation, 15 detail, 28 complex). LLaVA's dataset `llava-bench-in-the-wild` has
`questions.jsonl`, `context.jsonl`, `answers_gpt4.jsonl` (the references) and the images; the
judge's rules are `llava/eval/table/rule.json` of LLaVA's repository. The judge sees no image, only
the context, the question and both answers. Prompt, request settings and parsing are those of
LLaVA's `llava/eval/eval_gpt_review_bench.py`, the score is that of `summarize_gpt_review.py`:
100 * (sum of the model's grades) / (sum of the reference's), overall and by category; the mean over
`runs`.

Deviations. Answers, references and questions are matched by id, not by position. The first line of
a review may have more than one space between its two numbers ("8, 9" is refused there). Numbers
above the scale of 10 are as unreadable as words, and an unreadable review makes the score invalid
instead of counting -1. `reference` in the detail is the reference's own mean grade, times 10: if it
differs between two runs, the judge does. Published numbers are by gpt-4-0314, which is retired.
"""

import dataclasses
from statistics import fmean, pstdev
from typing import Any, ClassVar

from xmas.evaluation.facts import EARLIER_REVIEWS, Facts
from xmas.evaluation.json_files import (
    answer_lines,
    by_key,
    image_below,
    json_lines,
    json_object,
    with_keys,
)
from xmas.evaluation.judge.judge import Judging, check_wording, number
from xmas.evaluation.outcomes import Outcomes, pictures_of
from xmas.evaluation.protocol import AnswerError, Question, Scored, expect, join
from xmas.store import Made, Store, content, volatile

_DATASET = "https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild"
_SCALE = 10.0
_PROMPT = (  # of a judge
    "[Context]\n{context}\n\n[Question]\n{question}\n\n"
    "[{role} 1]\n{reference}\n\n[End of {role} 1]\n\n"
    "[{role} 2]\n{answer}\n\n[End of {role} 2]\n\n"
    "[System]\n{rule}\n\n"
)
_RULE = "4f81857a1c543b9d63c5a5349cad2f6df533d00062ba1a80d44a974b39df2e13"  # of every category

Pair = tuple[float, float]  # the grades of the reference and of the model


@dataclasses.dataclass(frozen=True)
class LlavaWild:
    """LLaVA-Bench; with a file of `reviews` no judge is asked."""

    name: ClassVar[str] = "llava_wild"
    facts: ClassVar[Facts] = Facts(
        order=90,
        ten=True,
        noisy=True,
        images=24,
        sources={
            **dict.fromkeys(("questions", "annotations", "contexts", "images"), _DATASET),
            "rules": "llava/eval/table/rule.json of https://github.com/haotian-liu/LLaVA",
            "reviews": EARLIER_REVIEWS,
        },
    )

    judging: Judging
    questions: str | Made = content()
    annotations: str | Made = content()  # the references
    contexts: str | Made = content()
    rules: str | Made = content()
    images: str | Made = volatile()
    reviews: str | Made | None = content(None)
    wording: str = "official"  # of the rules; another name is not checked, and part of the metric
    split: str = "in_the_wild"
    count: int | None = 60  # None: any number
    max_new_tokens: int = 1024

    @property
    def metric(self) -> str:
        """With the judge's name: grades of two judges do not compare."""
        suffix = "" if self.wording == "official" else f", {self.wording} rules"
        return f"relative_score by {self.judging.judge.model}{suffix}"

    def check(self) -> None:
        """Raise EndpointError if a judge is needed and cannot be asked."""
        if self.reviews is None:
            self.judging.check()

    def asked(self, store: Store) -> list[Question]:
        """All questions, in the order of the file. Raises AnswerError: not the expected number."""
        images = store.find(self.images)
        return [
            Question(row["question_id"], row["text"], image_below(images, row["image"]))
            for row in self._rows(store).values()
        ]

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        """The mean over runs; invalid if a review cannot be read.

        Raises AnswerError: an answer, reference, context, rule or review is missing, doubled or
        unknown. Raises EndpointError: the judge does not reply.
        """
        rows = self._rows(store)
        judgement = self.judging.reviewed(
            self.prompts(answers, store),
            grades,
            file=self.reviews,
            store=store,
            answer_ids={_id(line): line.get("answer_id", "") for line in answers},
        )
        if (invalid := judgement.invalid()) is not None:
            return invalid
        runs = judgement.runs()
        overall = [relative(list(run.values()), "all") for run in runs]
        points = {
            name: {str(number): (run[name][1], run[name][0]) for number, run in enumerate(runs)}
            for name in rows
        }
        return Scored(
            score=fmean(overall),
            num=len(rows),
            detail={
                "runs": overall,
                "std": pstdev(overall),
                "category": {
                    category: fmean(
                        relative([run[name] for name in members], category) for run in runs
                    )
                    for category, members in _members(rows).items()
                },
                "reference": 10 * fmean(pair[0] for run in runs for pair in run.values()),
                "model": 10 * fmean(pair[1] for run in runs for pair in run.values()),
                **judgement.about,
            },
            outcomes=Outcomes.of(
                points,
                {str(number): 100 / len(runs) for number in range(len(runs))},
                pictures=pictures_of(rows),
            ),
        )

    def prompts(self, answers: list[dict[str, Any]], store: Store) -> dict[Any, str]:
        """The judge's prompt about every question, by id.

        Raises AnswerError: an answer, reference, context or rule is missing, doubled or unknown.
        """
        rows = self._rows(store)
        texts = join(rows, answer_lines(answers, self.name), _id, benchmark=self.name)
        references = self._references(store, rows)
        path = store.find(self.contexts)
        contexts = by_key(json_lines(path, "image", "caption"), lambda row: row["image"], path)
        rules = self._rules(store, _members(rows))
        prompts = {}
        for name, row in rows.items():
            if row["image"] not in contexts:
                raise AnswerError(f"{path}: no context for {row['image']}, of question {name!r}")
            context = contexts[row["image"]]["caption"]
            prompts[name] = _PROMPT.format(
                context=context if isinstance(context, str) else "\n".join(context),
                question=row["text"],
                reference=references[name]["text"],
                answer=texts[name],
                role=rules[row["category"]]["role"],
                rule=rules[row["category"]]["prompt"],
            )
        return prompts

    def references(self, store: Store) -> list[str | None]:
        """The reference's answer to every question of `asked`. Raises AnswerError: one has none."""
        rows = self._rows(store)
        return [reference["text"] for reference in self._references(store, rows).values()]

    def _references(self, store: Store, rows: dict[Any, dict[str, Any]]) -> dict[Any, Any]:
        path = store.find(self.annotations)
        references = by_key(json_lines(path, "question_id", "text"), _id, path)
        if missing := [name for name in rows if name not in references]:
            raise AnswerError(f"{path}: no reference for question {missing[0]!r}")
        return {name: references[name] for name in rows}

    def _rows(self, store: Store) -> dict[Any, dict[str, Any]]:
        path = store.find(self.questions)
        rows = json_lines(path, "question_id", "text", "image", "category")
        expect(
            len(rows),
            self.count,
            what=f"{path}: questions",
            advice="take questions.jsonl of llava-bench-in-the-wild, or set count=null",
        )
        return by_key(rows, _id, path)

    def _rules(self, store: Store, categories: dict[str, Any]) -> dict[str, dict[str, str]]:
        """Role and wording of the judge's task in every category."""
        path = store.find(self.rules)
        content = json_object(path)
        names = {category: f"llava_bench_{category}" for category in categories}
        with_keys(content, names.values(), str(path))
        rules = {
            category: with_keys(content[name], ("role", "prompt"), f"{path}: {name}")
            for category, name in names.items()
        }
        if self.wording == "official":
            for rule in rules.values():
                check_wording(rule["prompt"], _RULE, path)
        return rules


def grades(review: str) -> Pair | None:
    """The two numbers of a review's first line, or None if it is anything else.

    >>> grades("8 9.5\\nThe second is better.")
    (8.0, 9.5)
    """
    numbers = [number(word, _SCALE) for word in review.split("\n")[0].replace(",", " ").split()]
    match numbers:
        case [float(reference), float(model)]:
            return reference, model
    return None


def relative(pairs: list[Pair], of: str) -> float:
    """100 * the model's sum / the reference's; `of` names the category in messages.

    Raises AnswerError: the reference's sum is 0.
    """
    reference, model = (sum(side) for side in zip(*pairs, strict=True))
    if reference == 0:
        raise AnswerError(f"llava_wild, {of}: the judge gave all references 0, nothing compares")
    return 100 * model / reference


def _members(rows: dict[Any, dict[str, Any]]) -> dict[str, list[Any]]:
    """The questions of every category."""
    members: dict[str, list[Any]] = {}
    for name, row in rows.items():
        members.setdefault(row["category"], []).append(name)
    return members


def _id(row: dict[str, Any]) -> Any:
    return row["question_id"]
