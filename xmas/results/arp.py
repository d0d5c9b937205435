"""Average relative performance (ARP): the one place that computes it, names it and ranks by it.

A relative score is 100 * score / (mean score of the reference's seeds). ARP is the unweighted mean
of the relative scores over benchmarks, so it depends on which benchmarks these are, and papers
differ in that. Every set of benchmarks has its own name, and an average exists only where each of
its benchmarks has a relative score: a mean over fewer never appears under the name of the whole.
Quick scores, over samples of the questions, are averaged among themselves.

Table, report, bootstrap and loggers call these functions, so they agree on which runs have an ARP.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeVar

import numpy as np

from xmas.evaluation.facts import known
from xmas.evaluation.quick import is_quick

ALL = "ARP"  # over all benchmarks of the leaderboard, quick ones only if there are no others
QUICK = "ARP quick"  # over the quick ones, where there are others
WITHOUT_NOISY = "ARP w/o"  # over all but those that vary most between runs


@functools.cache
def named_averages() -> dict[str, tuple[str, ...]]:
    """The benchmarks of every average that is known by a name, as their classes say."""
    facts = known()
    ten = tuple(name for name in facts if facts[name].ten)
    stand_ins = {of.stands_in_for: name for name, of in facts.items() if of.stands_in_for}
    return {
        "ARP ten": ten,
        "ARP ten, val": tuple(stand_ins.get(name, name) for name in ten),
        "ARP seven": tuple(name for name in facts if facts[name].seven),
    }


Score = TypeVar("Score", float, np.ndarray)  # a score, or an array of its bootstrap draws
Gaps = Mapping[int, Mapping[str, str]]  # by seed, benchmarks without a score; the text says why


def averages(scored: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The benchmarks of every ARP that exists for the benchmarks `scored`; `ALL` comes first.

    A name is left out where it would repeat `ALL`. Second scores of the same answers are in none,
    unless there is nothing else: `averaged` of `xmas.evaluation.facts.Facts`.

    >>> averages(("gqa", "mme"))
    {'ARP': ('gqa', 'mme'), 'ARP w/o': ('gqa',)}
    >>> averages(("gqa", "gqa_quick"))
    {'ARP': ('gqa',), 'ARP quick': ('gqa_quick',)}
    >>> averages(("heldout", "heldout_match"))
    {'ARP': ('heldout',)}
    """
    facts = known()
    quick = tuple(name for name in scored if is_quick(name))
    complete = tuple(name for name in scored if not is_quick(name))
    whole = complete or quick
    whole = tuple(name for name in whole if name not in facts or facts[name].averaged) or whole
    over = {ALL: whole}
    over |= {name: which for name, which in named_averages().items() if set(which) < set(whole)}
    calm = tuple(name for name in whole if name not in facts or not facts[name].noisy)
    if calm and len(calm) < len(whole):
        over[WITHOUT_NOISY] = calm
    if complete and quick:
        over[QUICK] = quick
    return over


def reference_means(scores: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    """The mean score of the reference by benchmark, over its valid seeds; only means above 0."""
    means = {}
    for name, of_seeds in scores.items():
        valid = [score for score in of_seeds if score is not None]
        if valid and fmean(valid) > 0:
            means[name] = fmean(valid)
    return means


def relative_scores(
    scores: Mapping[str, Score], reference: Mapping[str, Score]
) -> dict[str, Score]:
    """Scores in per cent of the reference's, on the benchmarks that the reference has."""
    return {
        name: 100 * score / reference[name] for name, score in scores.items() if name in reference
    }


def arps(
    relative: Mapping[str, Score],
    over: Mapping[str, Sequence[str]],
    mean: Callable[[list[Any]], Any] = fmean,
) -> dict[str, Score]:
    """Every average in `over` whose benchmarks all have a relative score, by name.

    Args:
        relative: by benchmark, of one training, or of one row's bootstrap draws.
        over: the benchmarks of each average, from `averages`.
        mean: of a list of scores; for arrays, their mean element by element.

    >>> arps({"gqa": 90.0, "mme": 80.0}, averages(("gqa", "mme")))
    {'ARP': 85.0, 'ARP w/o': 90.0}
    >>> arps({"gqa": 90.0}, averages(("gqa", "mme")))
    {'ARP w/o': 90.0}
    """
    return {
        name: mean([relative[benchmark] for benchmark in which])
        for name, which in over.items()
        if all(benchmark in relative for benchmark in which)
    }


def reasons(which: Collection[str], gaps: Gaps, unreferenced: Collection[str]) -> list[str]:
    """Why there is no ARP over the benchmarks `which`; empty where there is one.

    >>> reasons(("gqa", "mme"), {0: {"mme": ""}}, ())
    ['seed 0 has no score on mme']
    """
    without_reference = [name for name in which if name in unreferenced]
    why = (
        [f"no reference score above 0 on {', '.join(without_reference)}"]
        if without_reference
        else []
    )
    for seed, missing in gaps.items():
        lost = [
            f"{name} ({missing[name]})" if missing[name] else name
            for name in which
            if name in missing
        ]
        if lost:
            why.append(f"seed {seed} has no score on {', '.join(lost)}")
    return why


def notes_on_averages(scored: Sequence[str]) -> list[str]:
    """Sentences that say what every average is over, and which named ones do not exist and why."""
    over = averages(scored)
    whole = over[ALL]
    same = [name for name, which in named_averages().items() if set(which) == set(whole)]
    are_quick = " quick ones" if is_quick(whole[0]) else ""
    second = [name for name in scored if not (is_quick(name) or name in whole)]
    if second and not is_quick(whole[0]):
        notes = [f"{ALL} is over {', '.join(whole)}, not over {', '.join(second)}"]
    else:
        of = "".join(f", which is {one}" for one in same)
        notes = [f"{ALL} is over all {len(whole)}{are_quick}{of}"]
    for name, which in over.items():
        how = "without MME and LLaVA-Bench, " if name == WITHOUT_NOISY else ""
        notes += [f"{name}: {how}over {', '.join(which)}"] if name != ALL else []
    for name, which in named_averages().items():
        missing = [benchmark for benchmark in which if benchmark not in scored]
        if missing and len(missing) < len(which):
            notes.append(f"No {name}: no row has scores on {', '.join(missing)}")
    return notes


def ranks(values: Mapping[int, float]) -> dict[int, float]:
    """The rank of every value, 1 for the highest; equal values share the mean of their ranks."""
    ordered = sorted(values.values(), reverse=True)
    return {
        number: ordered.index(value) + (ordered.count(value) + 1) / 2
        for number, value in values.items()
    }


def mean_ranks(
    scores: Sequence[Mapping[str, float]], benchmarks: Collection[str]
) -> dict[int, float]:
    """The mean over benchmarks of every row's rank, among the rows that have them all."""
    complete = [number for number, of_row in enumerate(scores) if set(benchmarks) <= set(of_row)]
    by_benchmark = [ranks({row: scores[row][name] for row in complete}) for name in benchmarks]
    return {row: sum(of[row] for of in by_benchmark) / len(benchmarks) for row in complete}
