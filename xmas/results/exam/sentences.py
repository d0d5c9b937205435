"""What the marks of an exam say, in words: a line a selector, stability first."""

import math
from collections.abc import Iterator, Sequence

from xmas.results.exam.marks import LENGTH, PLANTED, REMEDY, STABILITY, Mark
from xmas.results.exam.measures import beyond_chance

_NEARLY_CHANCE, _STABLE = 0.2, 0.8  # of the way from chance to the same rows
_LESS = 0.1  # of that way
_FOLLOWS = 0.5  # share of a score's variance
_MORE = 1.25  # a ratio that is worth a word, where its interval leaves out 1
_COPIES = ("exact", "near")
_OF_KIND = {
    "exact": "exact copies",
    "near": "near copies",
    "inflated": "rows of a source made larger by near copies",
    "swapped": "swapped answers",
    "wrong_picture": "wrong pictures",
    "empty": "empty answers",
    "one_token": "one-token answers",
    "padded": "padded questions",
}


def sentences(marks: Sequence[Mark]) -> list[str]:
    """One for each selector, in the order of the marks; at its smallest budget."""
    return [
        _sentence([mark for mark in marks if mark.selector == selector], selector)
        for selector in dict.fromkeys(mark.selector for mark in marks)
    ]


def openings(marks: Sequence[Mark]) -> list[str]:
    """How stable each selector is, at its smallest budget."""
    lines = []
    for selector in dict.fromkeys(mark.selector for mark in marks if mark.part == STABILITY):
        of_selector = [
            mark for mark in marks if (mark.selector, mark.part) == (selector, STABILITY)
        ]
        smallest = min(mark.budget or 1 for mark in of_selector)
        shares = next(_stability([mark for mark in of_selector if mark.budget == smallest]), None)
        lines += [f"{selector} at {100 * smallest:g} %: {shares}."] if shares else []
    return lines


def _sentence(marks: Sequence[Mark], selector: str) -> str:
    budgets = [mark.budget for mark in marks if mark.budget is not None]
    smallest = [mark for mark in marks if mark.budget in (None, min(budgets))]
    parts = [*_stability(smallest), *_remedies(smallest), *_planted(smallest), *_length(smallest)]
    return f"{selector} at {100 * min(budgets):g} %: {'; '.join(parts)}."


def _stability(marks: Sequence[Mark]) -> Iterator[str]:
    """Under other proxy seeds, or ranking seeds where nothing is learned; then what is less stable
    than that.
    """
    by_name = {mark.name: mark for mark in marks if mark.part == STABILITY}
    first = by_name.get("proxy seeds") or by_name.get("ranking seeds")
    if first is None:
        return
    kappa = _kappa(first)
    degree = (
        "nearly chance" if kappa < _NEARLY_CHANCE else "stable" if kappa > _STABLE else "in part"
    )
    yield (
        f"its subsets under other {first.name} share {100 * first.value:.0f} % of their rows "
        f"({100 * (first.chance or 0):.0f} % by chance): {degree}"
    )
    less = [mark for mark in by_name.values() if _kappa(mark) < kappa - _LESS]
    if less:
        how = {True: "with", False: "under"}
        texts = [
            f"{100 * mark.value:.0f} % {how[mark.name.endswith('left out')]} {mark.name}"
            for mark in less
        ]
        yield f"they share {', '.join(texts)}"


def _kappa(mark: Mark) -> float:
    return beyond_chance(mark.value, mark.chance or 0.0)


def _remedies(marks: Sequence[Mark]) -> Iterator[str]:
    """Which remedies raise the overlap between proxy seeds beyond its highest pair."""
    tried = [mark for mark in marks if mark.part == REMEDY]
    plain = next((mark for mark in marks if mark.name == "proxy seeds"), None)
    if not tried or plain is None or plain.high is None:
        return
    better = [mark for mark in tried if mark.low is not None and mark.low > plain.high]
    texts = [f"{mark.name} ({100 * mark.value:.0f} %)" for mark in better]
    yield (
        f"more rows are shared with {', '.join(texts)}"
        if texts
        else f"none of {len(tried)} remedies raises what proxy seeds share"
    )


def _planted(marks: Sequence[Mark]) -> Iterator[str]:
    """Copies first; then what it prefers, avoids and does not tell from clean rows."""
    groups: dict[str, list[str]] = {"keeps more": [], "keeps fewer": [], "does not tell": []}
    for mark in marks:
        if mark.part != PLANTED or math.isnan(mark.value):
            continue
        if mark.name in _COPIES:
            yield (
                f"of the {_OF_KIND[mark.name]} of rows that it keeps, it keeps {mark.share:.2f} "
                f"(of clean rows {mark.chance:.2f})"
            )
            continue
        name = f"{_OF_KIND[mark.name]} ({mark.value:.2f})"
        if mark.low is not None and mark.low > 1 and mark.value > _MORE:
            groups["keeps more"].append(name)
        elif mark.high is not None and mark.high < 1 and mark.value < 1 / _MORE:
            groups["keeps fewer"].append(name)
        else:
            groups["does not tell"].append(name)
    for verb, names in groups.items():
        if names:
            yield f"it {verb} {', '.join(names)} {'from' if 'tell' in verb else 'than'} clean rows"


def _length(marks: Sequence[Mark]) -> Iterator[str]:
    """Whether score or order follow the length."""
    for mark in marks:
        if mark.part == LENGTH and mark.name.startswith("R2") and mark.value > _FOLLOWS:
            what = mark.name.removeprefix("R2 of the ")
            yield f"text length explains {100 * mark.value:.0f} % of its {what}"
