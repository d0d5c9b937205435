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

LLAVA_EVAL = (  # the source of a question file
    "LLaVA's eval.zip, "
    "https://drive.google.com/file/d/1atZSBBrAX54yYpxtVVW33zFvcnaHeFPy (docs/Evaluation.md)"
)
COCO = "http://images.cocodataset.org"
EARLIER_REVIEWS = "an earlier run, reviews.jsonl in the store, or the official script"


@dataclasses.dataclass(frozen=True)
class Facts:
    """Place in tables, membership in means, official files, and how questions are keyed."""

    order: int | None = None  # in tables, ascending; None: after all that have one, by name
    names: tuple[str, ...] = ()  # that the class is also configured to be scored under
    ten: bool = False  # one of the ten of COINCIDE and ICONS (XMAS names no ten)
    seven: bool = False  # one of those of the ten whose truth and rule are at hand
    stands_in_for: str | None = None  # in the mean over ten: the split that only a server scores
    noisy: bool = False  # varies most between repeated training runs
    has_truth: bool = True  # False: only the evaluation server has the answers
    sources: Mapping[str, str] = dataclasses.field(  # of official files, by field
        default_factory=dict
    )
    images: int | None = None  # distinct ones in the official questions; None: one each
    with_image: int | None = None  # official questions that show an image; None: all
    counts: tuple[str, ...] = ("count",)  # fields with official numbers, which no part has
    listed_under: str | None = None  # key of the list of questions in a JSON file; None: the whole
    id_key: str = "question_id"  # of a row of a JSON list or a TSV; JSON lines have `question_id`
    unit: Callable[[str | int], str] = str  # of a question_id: one unit's questions count together
    stratum: Callable[[str], str] = lambda unit: ""  # of a unit: each gives as many to a draw


def facts_of(benchmark: object) -> Facts:
    """What a benchmark, or its class, says of itself."""
    return getattr(benchmark, "facts", Facts())


@functools.cache
def known() -> Mapping[str, Facts]:
    """The facts of the benchmarks of this package by name, in the order of tables."""
    from xmas.evaluation import benchmarks

    classes = [
        cls
        for module in pkgutil.iter_modules(benchmarks.__path__, f"{benchmarks.__name__}.")
        for _, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass)
        if cls.__module__ == module.name and isinstance(getattr(cls, "facts", None), Facts)
    ]
    by_name = {name: cls.facts for cls in classes for name in (cls.name, *cls.facts.names)}
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
