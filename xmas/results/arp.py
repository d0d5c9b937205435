"""Where a row stands among others: which benchmarks an ARP is over, and ranks.

ARP is an unweighted mean, so it depends on which benchmarks it is over, and papers differ in that.
Each mean has a name of its own and is shown only where every benchmark of it was scored: a mean
over fewer never passes under the name of the ten.
"""

from collections.abc import Collection, Mapping, Sequence

ALL = "ARP"  # over whatever was scored
TEN = (
    "vqav2", "gqa", "vizwiz", "sqa", "textvqa", "pope", "mme", "mmbench", "mmbench_cn",
    "llava_wild",
)  # fmt: skip  # those of COINCIDE and ICONS; XMAS names no ten, VisNec has mmvet for vizwiz
SEVEN = ("gqa", "sqa", "textvqa", "pope", "mme", "mmbench", "mmbench_cn")  # truth and rule at hand
STAND_INS = {"vqav2": "vqav2_val", "vizwiz": "vizwiz_val"}  # where the test split has no truth
CALM = "ARP w/o"  # without these:
RESTLESS = ("mme", "llava_wild")  # swing most between runs, and weigh as much as any other
_NAMED = {
    "ARP ten": TEN,
    "ARP ten, val": tuple(STAND_INS.get(name, name) for name in TEN),
    "ARP seven": SEVEN,
}


def averages(scored: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The benchmarks behind every ARP that can be told from `scored`; `ALL` comes first.

    A name is left out where it would repeat `ALL`.
    """
    found = {ALL: tuple(scored)}
    found |= {name: which for name, which in _NAMED.items() if set(which) < set(scored)}
    calm = tuple(name for name in scored if name not in RESTLESS)
    if calm and len(calm) < len(scored):
        found[CALM] = calm
    return found


def said_of(scored: Sequence[str]) -> list[str]:
    """What the means are over, and which named ones are missing and why, as notes."""
    found = averages(scored)
    same = [name for name, which in _NAMED.items() if set(which) == set(scored)]
    notes = [f"{ALL} is over all {len(scored)}" + "".join(f", which is {name}" for name in same)]
    for name, which in found.items():
        how = "without MME and LLaVA-Bench, " if name == CALM else ""
        notes += [f"{name}: {how}over {', '.join(which)}"] if name != ALL else []
    for name, which in _NAMED.items():
        lacking = [each for each in which if each not in scored]
        if lacking and len(lacking) < len(which):
            notes.append(f"No {name}: nobody was scored on {', '.join(lacking)}")
    return notes


def ranks(values: Mapping[int, float]) -> dict[int, float]:
    """The rank of every item, 1 for the highest; equal values share the mean of their ranks."""
    ordered = sorted(values.values(), reverse=True)
    return {
        item: ordered.index(value) + (ordered.count(value) + 1) / 2
        for item, value in values.items()
    }


def mean_ranks(scores: Sequence[Mapping[str, float]], asked: Collection[str]) -> dict[int, float]:
    """The mean over benchmarks of every row's rank, among the rows that have them all."""
    whole = [number for number, of_row in enumerate(scores) if set(asked) <= set(of_row)]
    by_benchmark = [ranks({number: scores[number][name] for number in whole}) for name in asked]
    return {number: sum(each[number] for each in by_benchmark) / len(asked) for number in whole}
