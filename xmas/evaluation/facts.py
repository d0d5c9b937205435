"""What is known of a benchmark apart from its questions and its rule.

A benchmark says it on its class, as `facts: ClassVar[Facts]`; tables, the doctor, the estimate and
quick scores read it there and nowhere else. Nothing of it is part of a result's identity. A
benchmark without `facts`, such as one from outside this package, gets the defaults.
"""

import dataclasses
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

LLAVA_EVAL = (  # the source of a question file
    "LLaVA's eval.zip, "
    "https://drive.google.com/file/d/1atZSBBrAX54yYpxtVVW33zFvcnaHeFPy (docs/Evaluation.md)"
)
COCO = "http://images.cocodataset.org"
EARLIER_REVIEWS = "an earlier run, reviews.jsonl in the store, or the official script"


@dataclasses.dataclass(frozen=True)
class Facts:
    """Place in tables, membership in averages, official files, and how questions are keyed.

    Args:
        order: in tables, ascending; None: after all that have one, by name.
        names: further names under which the class is scored, as `mmbench_cn`.
        ten: whether it is one of the ten benchmarks of COINCIDE and ICONS (XMAS names no ten).
        seven: whether it is one of the seven of those whose truth and rule are public.
        stands_in_for: the benchmark that it replaces in the average over ten, since only a server
            can score that one.
        noisy: whether it varies most between repeated training runs.
        averaged: whether averages are over it, where they are over others: False for a second score
            of the same answers.
        has_truth: False: only the evaluation server has the answers.
        sources: where the official file of each field is published; `{split}` is the split's name.
        images: distinct images of the official questions; None: one per question.
        with_image: official questions that show an image; None: all.
        counts: fields with official numbers, which a sample of the questions does not have.
        listed_under: the key of the list of questions in a JSON file; None: the file is the list.
        id_key: the key of a question's id in a row of a JSON list or a TSV, and in JSON lines that
            have no `question_id`.
        unit: from a question id to its unit; the questions of a unit count together.
        stratum: from a unit to its stratum; a sample has equally many units of each.
    """

    order: int | None = None
    names: tuple[str, ...] = ()
    ten: bool = False
    seven: bool = False
    stands_in_for: str | None = None
    noisy: bool = False
    averaged: bool = True
    has_truth: bool = True
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    images: int | None = None
    with_image: int | None = None
    counts: tuple[str, ...] = ("count",)
    listed_under: str | None = None
    id_key: str = "question_id"
    unit: Callable[[str | int], str] = str
    stratum: Callable[[str], str] = lambda unit: ""

    @property
    def stratified(self) -> bool:
        """Whether there is more than one stratum."""
        return self.stratum is not Facts.stratum


def facts_of(benchmark: object) -> Facts:
    """The facts of a benchmark or of its class; the defaults where it has none."""
    return getattr(benchmark, "facts", Facts())


@functools.cache
def known() -> Mapping[str, Facts]:
    """The facts of the benchmarks of this package by name, in the order of tables."""
    from xmas.evaluation import benchmarks

    by_name: dict[str, Facts] = {}
    for module in pkgutil.iter_modules(benchmarks.__path__, f"{benchmarks.__name__}."):
        members: Any = inspect.getmembers(importlib.import_module(module.name), inspect.isclass)
        for _, cls in members:
            if cls.__module__ == module.name and isinstance(facts := vars(cls).get("facts"), Facts):
                by_name |= dict.fromkeys((cls.name, *facts.names), facts)
    return {name: by_name[name] for name in sorted(by_name, key=lambda name: _place(by_name, name))}


def _place(by_name: Mapping[str, Facts], name: str) -> tuple[bool, int, str]:
    order = by_name[name].order if name in by_name else None
    return order is None, order or 0, name


def in_order(names: Iterable[str]) -> list[str]:
    """Names of benchmarks as tables list them: those of this package first, then by name.

    >>> in_order(["mine", "pope", "gqa", "another"])
    ['gqa', 'pope', 'another', 'mine']
    """
    return sorted(set(names), key=lambda name: _place(known(), name))
