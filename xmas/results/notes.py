"""The sentences below the tables: what the numbers are based on, and why some are missing."""

from collections.abc import Iterable, Iterator
from statistics import fmean, stdev

from xmas.results.arp import ALL, notes_on_averages, reasons
from xmas.results.evidence import Evidence
from xmas.results.leaderboard import BASE, Leaderboard
from xmas.results.leaderboard_rows import Row, not_nested, short
from xmas.results.score_records import Settings
from xmas.results.statistics.intervals import BASELINE
from xmas.selection.small_models import REMARK, small_models
from xmas.store.index import Config


def about_scores(evidence: Evidence) -> list[str]:
    """What the scores are based on, and which ARPs are missing and why."""
    leaderboard = evidence.leaderboard
    counts = sorted({len(row.seeds) for row in leaderboard.rows})
    seeds = " to ".join(str(count) for count in sorted({counts[0], counts[-1]}))
    questions = ", ".join(
        f"{name} {run.num:,} ({run.split}, {run.metric})"
        for name, run in leaderboard.benchmarks.items()
    )
    protocols = dict.fromkeys(run.protocol for run in leaderboard.benchmarks.values())
    notes = [
        f"Seeds: {seeds} a row, as its column says; mean ± sample standard deviation over them",
        f"Questions: {questions}",
        f"Answers: {'; '.join(protocols)}",
        f"{ALL}: mean over the benchmarks of 100 * score / mean score of the reference",
        *notes_on_averages([*leaderboard.benchmarks]),
    ]
    notes += _about_other_seeds(leaderboard)
    notes += _about_small_models(evidence)
    trainings = (training for line in evidence.lines for training in line.trainings)
    notes += about_starts(training.target for training in trainings)
    if leaderboard.rows[0].selector == BASE:
        notes.append(
            "The reference is the start point before any training: no target was trained on the "
            f"whole pool, so 100 is not a bound of {ALL}"
        )
    notes += _without_reference(leaderboard)
    for name, why in leaderboard.without_questions.items():
        notes.append(f"No column {name}: {why}")
    if note := not_nested(leaderboard.rows):
        notes.append(note)
    for row in leaderboard.rows:
        for reason in reasons(leaderboard.averages[ALL], row.gaps, ()):
            notes.append(f"No {ALL} for {row.label}, {row.budget_text}: {reason}")
    notes += _over_fewer(leaderboard)
    return notes


def _about_other_seeds(leaderboard: Leaderboard) -> Iterator[str]:
    """Which seeds of proxies differ within a row, and how far rows that they tell apart are."""
    alike: dict[tuple[str, str, Settings], list[Row]] = {}
    for row in leaderboard.rows:
        by_seed = {run.seed: run.other_seeds for run in row.runs}
        paths = {path for seeds in by_seed.values() for path, _ in seeds}
        varied = sorted(
            {
                short(path)
                for path in paths
                if len({dict(seeds).get(path) for seeds in by_seed.values()}) > 1
            }
        )
        if varied:
            yield (
                f"{row.label}, {row.budget_text}: {', '.join(varied)} varies with the seed, so the "
                "spread is that of both"
            )
        rest = tuple(setting for setting in row.settings if not setting[0].endswith(".seed"))
        if len(rest) < len(row.settings):
            alike.setdefault((row.selector, row.budget_text, rest), []).append(row)
    for (selector, budget, _), rows in alike.items():
        names = dict.fromkeys(
            short(path) for row in rows for path, _ in row.settings if path.endswith(".seed")
        )
        means = [row.arp.mean for row in rows if row.arp is not None]
        spread = f": {ALL} {fmean(means):.1f} ± {stdev(means):.1f}" if len(means) > 1 else ""
        yield (f"{selector}, {budget}: {len(rows)} rows differ in {', '.join(names)} alone{spread}")


def _about_small_models(evidence: Evidence) -> Iterator[str]:
    """Which models are good for trying things out alone."""
    trainings = [training for line in evidence.lines for training in line.trainings]
    choices = {choice for training in trainings for choice in small_models(training.target)}
    if choices:
        yield f"{', '.join(sorted(choices))}: {REMARK}; no evidence for or against a selector"


def about_starts(targets: Iterable[Config]) -> Iterator[str]:
    """Which targets start from weights that are tuned on instructions already, or random."""
    starts = [(target.get("start", {}), target.get("from_tuned", False)) for target in targets]
    random = {_name_of(start) for start, _ in starts if start.get("drawn")}
    tuned = {_name_of(start) for start, is_tuned in starts if is_tuned} - random
    if tuned:
        yield (
            f"The target starts from {', '.join(sorted(tuned))}, tuned on instructions already "
            "(target.from_tuned=true): it may have seen rows of the pool, so that a score says "
            "less of the subset"
        )
    if random:
        yield f"The target starts from random weights of the shape of {', '.join(sorted(random))}"


def _name_of(start: Config) -> str:
    """The name on the hub of a start point, or its kind."""
    return start.get("source", {}).get("hub") or start["type"]


def _without_reference(leaderboard: Leaderboard) -> Iterator[str]:
    """Why scores on some benchmarks are relative to nothing, and what to do about it."""
    reference = leaderboard.rows[0].scores if leaderboard.rows[0].is_reference else {}
    averaged = leaderboard.averages[ALL]
    lost = [name for name in leaderboard.unreferenced if name in averaged]
    zero = [name for name in lost if name in reference]
    absent = [name for name in lost if name not in reference]
    rest = [name for name in leaderboard.benchmarks if name not in leaderboard.unreferenced]
    others = f"; the ARP of the others: table.benchmarks={_listed(rest)}" if rest else ""
    if zero:
        yield (
            f"No {ALL}: the reference's score is 0 on {', '.join(zero)}, and relative scores are "
            f"undefined there{others}"
        )
    if absent:
        yield (
            f"No {ALL}: no reference score above 0 on {', '.join(absent)}; train the target on the "
            f"whole pool (goal=scores selector=full), or score its start point "
            f"(goal=scores reference.base=true){others}"
        )


def _over_fewer(leaderboard: Leaderboard) -> Iterator[str]:
    """How rows that lack some scores get an ARP: over the benchmarks that all rows have."""
    lost = {name for row in leaderboard.rows for missing in row.gaps.values() for name in missing}
    lost &= set(leaderboard.averages[ALL])
    rest = [
        name for name in leaderboard.benchmarks if name not in {*lost, *leaderboard.unreferenced}
    ]
    if lost and rest:
        yield f"An {ALL} for every row, over fewer benchmarks: table.benchmarks={_listed(rest)}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"[{','.join(names)}]"


def about_arp(evidence: Evidence) -> Iterator[str]:
    """How intervals are estimated, and which scores have none."""
    yield (
        "95 %: from a bootstrap over seeds and then questions, the same questions for all rows; "
        "of one seed over questions alone, which says nothing about training"
    )
    shared = evidence.lines[0].certainty.pictures
    if shared:
        counts = ", ".join(
            f"{name} {units:,} of {pictures:,}" for name, (units, pictures) in shared.items()
        )
        yield f"Questions about one picture are drawn together: {counts} pictures"
    without_outcomes = dict.fromkeys(
        name
        for line in evidence.lines
        for name, mean in line.row.scores.items()
        if name not in line.certainty.scores and mean.seeds == len(line.row.seeds)
    )
    if without_outcomes:
        names = ", ".join(without_outcomes)
        yield f"No interval where scores keep no outcomes of questions: {names}"


def about_baseline(evidence: Evidence) -> Iterator[str]:
    """What is compared with the baseline, and how p is adjusted."""
    differences = [line.certainty.against for line in evidence.lines]
    tested = [of for of in differences if of is not None and of.p is not None]
    yield (
        f"vs {BASELINE}: points of {ALL} above {BASELINE} at the same budget, both drawn together; "
        f"p: Holm's, for {len(tested)} comparisons with {BASELINE} in this table, * below 0.05; "
        "none where one of both has a single seed"
    )


def about_ranks(evidence: Evidence) -> Iterator[str]:
    """Among which rows ranks are."""
    yield (
        f"rank: by {ALL} within its budget; mean rank: over the benchmarks, among rows that have "
        "all"
    )


def about_hours(evidence: Evidence) -> Iterator[str]:
    """On which devices hours were measured, and what they include."""
    devices = sorted({name for line in evidence.lines if line.cost for name in line.cost.devices})
    if devices:
        yield (
            f"Hours: of {'; '.join(devices)}, as recorded, all devices at work added up, mean over "
            "seeds; a stage that several rows share counts whole in each, what all runs need alike "
            "in none. total / full: only where all was measured on one kind of device"
        )


def about_osc(evidence: Evidence) -> Iterator[str]:
    """What OSC is, and which rows have none and why."""
    yield (
        "OSC: (P of full / P of the row, by ARP) x (selection + training) / training on all rows, "
        "in measured device time; below 1 the selection is a gain (PRISM's)"
    )
    without: dict[str, list[str]] = {}
    for line in evidence.lines:
        if line.osc_absent:
            without.setdefault(line.osc_absent, []).append(f"{line.row.label} {line.budget}")
    for reason, rows in without.items():
        yield f"No OSC for {', '.join(rows)}: {reason}"


def about_validation(evidence: Evidence) -> Iterator[str]:
    """Which rows were chosen with the help of benchmarks' validation data."""
    names = sorted({line.selector for line in evidence.lines if line.row.saw_validation})
    if names:
        yield (
            f"Saw validation data: {', '.join(names)}; rows were chosen by validation rows of "
            "benchmarks, so that scores on these are no evidence for other tasks"
        )


def about_length(evidence: Evidence) -> Iterator[str]:
    """How much of the features text length alone explains."""
    for label, shares in evidence.length_r2.items():
        yield f"R² of the features of {label} against text length, by step: " + ", ".join(
            f"{step}: {share:.2f}" for step, share in shares.items()
        )
