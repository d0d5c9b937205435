"""What the wording of an answer counts as.

Every benchmark has its own idea of what "Yes." is, and the published numbers contain it. The rules
are therefore kept as they are, faults included, each with its source, and share nothing.
"""

import re

_STOPS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_LAST_TOKENS = 4


def gqa_answer(text: str) -> str:
    """Lower case without the full stops at the end; nothing else is forgiven, no space either.

    Source: LLaVA, `scripts/convert_gqa_for_eval.py`.
    """
    return text.rstrip(".").lower()


def pope_answer(text: str) -> str:
    """Give "no" if the first sentence has the word No, no or not, else "yes".

    So an empty answer, "NO" and "no!" are all "yes".
    Source: LLaVA, `llava/eval/eval_pope.py`.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"}.intersection(words) else "yes"


def mme_answer(text: str) -> str:
    """Give "yes", "no" or "other", from the first four characters in lower case.

    "yes" anywhere in them wins over "no", so that "Nope" and "know" are "no", "I say yes" "other".
    Source: MME, `eval_tool/calculation.py`.
    """
    start = text.lower()[:4]
    return next((said for said in ("yes", "no") if said in start), "other")


def option_letter_exactly(text: str, letters: str) -> str | None:
    """The letter that an answer is ("B"), begins with ("B. red") or names ("The answer is B.").

    None if none of these, or if more than one is named. In the third form any capital is taken, and
    any character for the full stop.
    Source: LLaVA, `llava/eval/eval_science_qa.py`.
    """
    if text in tuple(letters):
        return text
    if len(text) >= 3 and text[0] in letters and text[1:3] == ". ":
        return text[0]
    named = re.findall(r"The answer is ([A-Z]).", text)
    return named[0] if len(named) == 1 else None


def option_letter(text: str, options: dict[str, str]) -> str | None:
    """The letter of the option that a free answer means, or None where it cannot be told.

    First the letters: exactly one of them stands as a word, and does so for the first time among
    the last four words; the window keeps the article of "A dog runs on the beach" from being an
    answer. Then the texts: exactly one option is contained, in any case, unless the answer is more
    than twice as long as all options together. "Z", by which models refuse, is never an option.

    Source: VLMEvalKit, `vlmeval/utils/matching_util.py` (`can_infer`), without its list of API
    refusals.
    """
    words = text.translate(_STOPS).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and words.index(letters[0]) >= len(words) - _LAST_TOKENS:
        return letters[0]
    if not letters and "Z" in words:
        return None
    lowered = text.lower()
    if len(lowered) > 2 * sum(map(len, options.values())):
        return None
    contained = [letter for letter, option in options.items() if option.lower() in lowered]
    return contained[0] if len(contained) == 1 else None
