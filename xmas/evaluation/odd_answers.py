"""Signs that answers are not what a benchmark's rule expects, though the rule scores them.

Official rules are applied as they are. They were written for the answers of LLaVA's own script,
which strips each one; other programs leave line breaks, spaces and end marks, and the same words
then score 0, or all count as one verdict.
"""

from collections.abc import Iterator
from typing import Any

from xmas.evaluation.protocol import Scored

END_MARKS = ("</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<eos>")
_FEW = 4  # answers that may all be alike by chance


def odd_answers(answers: list[dict[str, Any]], scored: Scored) -> Iterator[str]:
    """What is odd about answers or their verdicts, a sentence each."""
    ragged = [line for line in answers if _ragged(line["text"])]
    if ragged:
        yield (
            f"{len(ragged)} of {len(answers)} answers begin or end with white space or an end mark "
            f"such as </s>, e.g. {ragged[0]['text']!r} to question {ragged[0]['question_id']!r}; "
            "LLaVA strips them before scoring, the rule itself does not"
        )
    distinct = {line["text"] for line in answers}
    if len(answers) > _FEW and len(distinct) > 1 and (verdict := _single_verdict(scored)):
        yield (
            f"{verdict}, though the answers differ: {', '.join(map(repr, sorted(distinct)[:3]))}; "
            "look whether they are in the form that the benchmark's prompt asks for"
        )


def _ragged(text: str) -> bool:
    return text != text.strip() or text.endswith(END_MARKS)


def _single_verdict(scored: Scored) -> str | None:
    """What the rule takes all answers for, if it is one and the same."""
    ratios = [part["yes_ratio"] for part in scored.detail.values() if _has_ratio(part)]
    if ratios and set(ratios) == {100.0}:
        return "every answer counts as yes"
    if ratios and set(ratios) == {0.0}:
        return "every answer counts as no"
    if (rows := scored.detail.get("rows")) and scored.detail.get("unresolved") == rows:
        return "no answer names an option"
    return "no answer is right" if scored.score == 0 else None


def _has_ratio(part: object) -> bool:
    return isinstance(part, dict) and "yes_ratio" in part
