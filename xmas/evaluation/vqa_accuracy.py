"""Short answers beside those of ten people: how wording is normalised, how agreement is counted.

Two normalisers are in use and are kept as they are, faults included: the one that prepares answers
for evaluation servers (and scores TextVQA and VizWiz), and VQA's own. They differ only in how they
begin. A full stop goes unless a digit follows, whatever stands before it (the sources mean to look
behind, but misspell it), and only the first 32 go (a flag was passed where the number belongs).

Sources: LLaVA, `llava/eval/m4c_evaluator.py`; GT-Vision-Lab/VQA, `vqaEvaluation/vqaEval.py`.
"""

import functools
import re
from collections.abc import Sequence

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_STOP = re.compile(r"\.(?!\d)")
_STOPS_DROPPED = 32
_DIGITS_APART = re.compile(r"\d,\d")
_COUNTED = "zero one two three four five six seven eight nine ten".split()
_NUMBERS = {word: str(number) for number, word in enumerate(_COUNTED)} | {"none": "0"}
_ARTICLES = {"a", "an", "the"}
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _without_one(word: str) -> list[str]:
    """`word` with one of its apostrophes left out, in every way."""
    places = [place for place, letter in enumerate(word) if letter == "'"]
    return [word[:place] + word[place + 1 :] for place in places]


_CONTRACTIONS = {slip: word for word in _CONTRACTED.split() for slip in _without_one(word)}
_CONTRACTIONS["somebody'd"] = "somebodyd"  # the wrong way round in both sources


@functools.lru_cache(1 << 18)
def evalai_answer(text: str) -> str:
    """As LLaVA prepares an answer for an evaluation server: "It's 3.5" is "it 's 3.5"."""
    words = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return vqa_answer(words)


@functools.lru_cache(1 << 18)
def vqa_answer(text: str) -> str:
    """As VQA's own evaluation: no marks, no articles, digits for numbers, apostrophes put back.

    A mark is dropped where it stands beside a space somewhere, or where the text has a comma
    between digits; else a space takes its place.
    """
    plain = bare = text.replace("\n", " ").replace("\t", " ").strip()
    apart = _DIGITS_APART.search(plain) is not None
    for mark in _MARKS:
        if mark in plain:
            beside = apart or f"{mark} " in plain or f" {mark}" in plain
            bare = bare.replace(mark, "" if beside else " ")
    words = _STOP.sub("", bare, count=_STOPS_DROPPED).lower().split()
    numbers = (_NUMBERS.get(word, word) for word in words)
    kept = (word for word in numbers if word not in _ARTICLES)
    return " ".join(_CONTRACTIONS.get(word, word) for word in kept)


def agreement(said: str, answers: Sequence[str]) -> float:
    """The mean over annotators of min(1, n / 3), with n of the *others* having said it.

    Of ten, one gives 0.3, two 0.6, three 0.9, four or more 1.
    """
    same = sum(answer == said for answer in answers)
    own, rest = min(1.0, (same - 1) / 3), min(1.0, same / 3)
    return (same * own + (len(answers) - same) * rest) / len(answers) if same else 0.0
