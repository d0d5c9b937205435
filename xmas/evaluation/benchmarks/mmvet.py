"""MM-Vet: free-form answers, graded from 0 to 1 by a few-shot judge; the mean grade, times 100.

Split `v1`, 218 questions. Questions: LLaVA's `llava-mm-vet.jsonl`; truth and capabilities:
`mm-vet.json` of `mm-vet.zip`. The judge's prompt is parsed from MM-Vet's `mm-vet_evaluator.py`:
`prompt` is the path of that file, or of a text file with another prompt. Without it our own prompt
is used, and the metric says so. Request settings, parsing and score are the evaluator's: no system
message, temperature 0, three tokens, the number before the first space; the mean over questions,
by capability and by integration (the set of capabilities that a question needs), then the mean over
`runs` with the population's standard deviation.

Deviations. A reply that is not a number from 0 to 1 makes the score invalid; the evaluator asks up
to five times, at a higher temperature and with a longer prompt each time, and then counts 0
(`judging.asks` repeats the unchanged request, for judges that are not at temperature 0). Spaces
around a reply are ignored. Published numbers are by gpt-4-0613.
"""

import ast
import dataclasses
import json
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, ClassVar

from xmas.evaluation.facts import EARLIER_REVIEWS, LLAVA_EVAL, Facts
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
from xmas.evaluation.text_files import text_of
from xmas.store import Made, Store, content, volatile

_OWNERS = "https://github.com/yuweihao/MM-Vet"
PROMPT = """\
You grade answers to questions about pictures. Each line of the table has a question, the answer \
that was expected, the answer that was given, and its grade, in steps of 0.1 from 0.0 for an \
answer that is all wrong to 1.0 for one that is all right. An expected answer whose parts are \
joined by <AND> is given in full only with all of them, and each earns its share; of parts joined \
by <OR> any single one is enough. Other words for the same thing are as good. Write the grade that \
is missing in the last line, and nothing else.

Question | Expected | Given | Grade
--- | --- | --- | ---
Which fruits lie on the table? | apple <AND> pear | a banana | 0.0
Which fruits lie on the table? | apple <AND> pear | There is an apple. | 0.5
Which fruits lie on the table? | apple <AND> pear | pears and one apple | 1.0
How is the man getting there? | by bike <OR> cycling | He rides a bicycle. | 1.0
Why is this sign odd? | It says that the road is closed, but it stands beside the road, and cars \
drive past it. | The sign says that the road is closed. | 0.4
"""
_OFFICIAL = "0a8b318f3b92c4bbac086139b5122f22d2ca991c272867e77bce5ed611f07d1a"


@dataclasses.dataclass(frozen=True)
class MMVet:
    """MM-Vet; with a file of `reviews` no judge is asked."""

    name: ClassVar[str] = "mmvet"
    facts: ClassVar[Facts] = Facts(
        order=100,
        images=200,
        sources={
            "questions": LLAVA_EVAL,
            **dict.fromkeys(("annotations", "images"), f"mm-vet.zip of {_OWNERS}/releases"),
            "prompt": f"mm-vet_evaluator.py of {_OWNERS}",
            "reviews": EARLIER_REVIEWS,
        },
    )

    judging: Judging
    questions: str | Made = content()
    annotations: str | Made = content()
    images: str | Made = volatile()
    prompt: str | Made | None = content(None)
    reviews: str | Made | None = content(None)
    wording: str = "official"  # of the prompt; another name is not checked, and part of the metric
    split: str = "v1"
    count: int | None = 218  # None: any number
    max_new_tokens: int = 1024

    @property
    def metric(self) -> str:
        """With the judge's name: grades of two judges do not compare."""
        wording = "our" if self.prompt is None else self.wording
        suffix = "" if wording == "official" else f", {wording} prompt"
        return f"grade by {self.judging.judge.model}{suffix}"

    def check(self) -> None:
        """Raise EndpointError if a judge is needed and cannot be asked."""
        if self.reviews is None:
            self.judging.check()

    def asked(self, store: Store) -> list[Question]:
        """All questions, in the order of the file. Raises AnswerError: not the expected number."""
        images = store.find(self.images)
        return [
            Question(row["question_id"], row["text"], image_below(images, row["image"]))
            for row in self._rows(store, "text", "image").values()
        ]

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        """The mean over runs; invalid if a review cannot be read.

        Raises AnswerError: an answer, its truth or a review is missing, doubled or unknown. Raises
        EndpointError: the judge does not reply.
        """
        prompts = self.prompts(answers, store)
        judgement = self.judging.reviewed(prompts, grade, file=self.reviews, store=store)
        if (invalid := judgement.invalid()) is not None:
            return invalid
        runs = judgement.runs()
        overall = [100 * fmean(run.values()) for run in runs]
        questions_of_capability: dict[str, list[str]] = {}
        questions_of_integration: dict[str, list[str]] = {}
        for name, row in self._truth(store).items():
            capabilities = sorted(set(row["capability"]))
            questions_of_integration.setdefault("_".join(capabilities), []).append(name)
            for capability in capabilities:
                questions_of_capability.setdefault(capability, []).append(name)
        return Scored(
            score=fmean(overall),
            num=len(prompts),
            detail={
                "runs": overall,
                "std": pstdev(overall),
                "capability": _means(questions_of_capability, runs),
                "integration": _means(questions_of_integration, runs),
                **judgement.about,
            },
            outcomes=Outcomes.mean(
                {name: fmean(run[name] for run in runs) for name in prompts},
                pictures=pictures_of(self._rows(store)),
            ),
        )

    def prompts(self, answers: list[dict[str, Any]], store: Store) -> dict[str, str]:
        """The judge's prompt about every question, by MM-Vet's own ids (`v1_0`).

        Raises AnswerError: an answer or its truth is missing, doubled or unknown, or the prompt is
        not the official one although `wording` says so.
        """
        lines = answer_lines(answers, self.name)
        texts = join(self._rows(store), lines, _name, benchmark=self.name)
        start = self._prompt(store)
        prompts = {}
        for name, row in self._truth(store).items():
            reference_answer = row["answer"].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
            prompts[name] = f"{start}\n{row['question']} | {reference_answer} | {texts[name]} | "
        return prompts

    def references(self, store: Store) -> list[str | None]:
        """The expected answer to every question of `asked`; None where it has several parts,
        joined by <AND> or <OR>.
        """
        answers = [row["answer"] for row in self._truth(store).values()]
        return [None if "<AND>" in text or "<OR>" in text else text for text in answers]

    def submit(self, answers: list[dict[str, Any]], store: Store, out: Path) -> Path:
        """Write `mmvet.json`, which MM-Vet's own evaluator grades, into `out`.

        Raises AnswerError: an answer is missing, doubled or unknown.
        """
        lines = answer_lines(answers, self.name)
        texts = join(self._rows(store), lines, _name, benchmark=self.name)
        path = out / "mmvet.json"
        path.write_text(json.dumps(texts, indent=1, ensure_ascii=False), encoding="utf-8")
        return path

    def _rows(self, store: Store, *keys: str) -> dict[str, dict[str, Any]]:
        """The questions, each at least with its id and `keys`; scoring needs the id alone."""
        path = store.find(self.questions)
        rows = json_lines(path, "question_id", *keys)
        advice = "take LLaVA's llava-mm-vet.jsonl, or set count=null"
        expect(len(rows), self.count, what=f"{path}: questions", advice=advice)
        return by_key(rows, _name, path)

    def _truth(self, store: Store) -> dict[str, dict[str, Any]]:
        """The truth of every question, in their order."""
        path = store.find(self.annotations)
        content = json_object(path)
        names = self._rows(store)
        with_keys(content, names, str(path))
        keys = ("question", "answer", "capability")
        return {name: with_keys(content[name], keys, f"{path}: {name}") for name in names}

    def _prompt(self, store: Store) -> str:
        if self.prompt is None:
            return PROMPT
        path = store.find(self.prompt)
        text = text_of(path)
        if path.suffix == ".py":
            text = _assigned(ast.parse(text), path)
        text = text.strip() + "\n"  # as in the evaluator
        if self.wording == "official":
            check_wording(text, _OFFICIAL, path)
        return text


def grade(review: str) -> float | None:
    """The number before the first space, or None unless it is one from 0 to 1.

    >>> grade("0.7 | good"), grade("7")
    (0.7, None)
    """
    return number(review.strip().split(" ")[0].strip(), 1.0)


def _means(groups: dict[str, list[str]], runs: list[dict[str, float]]) -> dict[str, float]:
    """100 * the mean over the members of every group, and over the runs."""
    return {
        group: 100 * fmean(fmean(run[name] for name in members) for run in runs)
        for group, members in sorted(groups.items())
    }


def _assigned(script: ast.Module, path: Path) -> str:
    """The text that the evaluator assigns to `prompt`. Raises AnswerError: it does not."""
    for step in script.body:
        match step:
            case ast.Assign(targets=[ast.Name(id="prompt")], value=ast.Constant(value=str(text))):
                return text
    raise AnswerError(f"{path}: assigns no text to `prompt`; take mm-vet_evaluator.py of MM-Vet")


def _name(row: dict[str, Any]) -> str:
    """LLaVA's ids are numbers, MM-Vet's names `v1_` and the number."""
    return f"v1_{row['question_id']}"
