"""One colour for one selector, in every figure of a report."""

from collections.abc import Iterable

from xmas.results.leaderboard import REFERENCE
from xmas.results.report.svg import tag, text

FIXED = {"xmas": "c-accent", "random": "c-quiet", REFERENCE: "c-ink", "length": "c-1"}
CYCLE = tuple(f"c-{number}" for number in range(2, 9))  # colours in style.css


class Palette:
    """The class that colours a selector: the accent for xmas, grey for the baseline."""

    def __init__(self, selectors: Iterable[str]) -> None:
        others = sorted(set(selectors) - set(FIXED))
        self._classes = FIXED | {
            name: CYCLE[number % len(CYCLE)] for number, name in enumerate(others)
        }

    def __getitem__(self, selector: str) -> str:
        return self._classes[selector]

    def key(self, selectors: Iterable[str], *more: str) -> str:
        """The names in their colours, for figures that cannot name each mark; `more` go first."""
        names = dict.fromkeys(selectors)
        chips = [tag("span", text(name), class_=f"chip {self[name]}") for name in names]
        return tag("p", *more, *chips, class_="key")
