"""VQA accuracy: short answers are normalised and compared with those of ten annotators.

Two normalisers are in use and reproduced exactly, faults included: the one that prepares answers
for evaluation servers (and scores TextVQA and VizWiz), and VQA's own. They differ only in how they
begin. A full stop is removed unless a digit follows, also if a digit precedes it (the sources'
lookbehind is misspelt), and only the first 32 are removed (`re.UNICODE` was passed as the count).

Sources: LLaVA, `llava/eval/m4c_evaluator.py`; GT-Vision-Lab/VQA, `vqaEvaluation/vqaEval.py`.
"""

import functools
import re
from collections import Counter
from collections.abc import Sequence

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_STOP = re.compile(r"\.(?!\d)")
_STOPS_REMOVED = 32
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
_CONTRACTIONS["somebody'd"] = "somebodyd"  # reversed in both sources


@functools.lru_cache(1 << 18)
def evalai_answer(text: str) -> str:
    """Normalise an answer as LLaVA does for evaluation servers.

    >>> evalai_answer("It's 3.5")
    "it 's 3.5"
    """
    words = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return vqa_answer(words)


@functools.lru_cache(1 << 18)
def vqa_answer(text: str) -> str:
    """Normalise an answer as VQA's own evaluation does.

    Punctuation and articles are removed, number words become digits, contractions get their
    apostrophes. A punctuation mark is removed everywhere if it is next to a space somewhere, or if
    the text has a comma between digits; otherwise each becomes a space.

    >>> vqa_answer("the two cats, dont!")
    "2 cats don't"
    """
    plain = bare = text.replace("\n", " ").replace("\t", " ").strip()
    apart = _DIGITS_APART.search(plain) is not None
    for mark in _MARKS:
        if mark in plain:
            remove = apart or f"{mark} " in plain or f" {mark}" in plain
            bare = bare.replace(mark, "" if remove else " ")
    words = _STOP.sub("", bare, count=_STOPS_REMOVED).lower().split()
    numbers = (_NUMBERS.get(word, word) for word in words)
    words = [word for word in numbers if word not in _ARTICLES]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words)


def most_common(answers: Sequence[str]) -> str | None:
    """The answer that more annotators gave than any other, as most of them wrote it; None: several
    were given equally often. Compared are answers as normalised for evaluation servers.

    >>> most_common(["2", "two", "three", "a few", "two"]), most_common(["red", "blue"])
    ('two', None)
    """
    spellings: dict[str, Counter[str]] = {}
    for text in answers:
        spellings.setdefault(evalai_answer(text), Counter())[text] += 1
    ranked = sorted(spellings.values(), key=Counter.total, reverse=True)
    if len(ranked) > 1 and ranked[0].total() == ranked[1].total():
        return None
    return ranked[0].most_common(1)[0][0]


def agreement(prediction: str, answers: Sequence[str]) -> float:
    """The mean over annotators of min(1, n / 3), where n of the *other* annotators agree.

    If one of ten annotators gave the prediction, it is 0.3; two, 0.6; three, 0.9; four or more, 1.
    """
    same = answers.count(prediction)
    own, rest = min(1.0, (same - 1) / 3), min(1.0, same / 3)
    return (same * own + (len(answers) - same) * rest) / len(answers) if same else 0.0
