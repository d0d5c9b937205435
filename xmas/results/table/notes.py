"""What stands below a table: what its numbers rest on, and why some are missing."""

from xmas.results.arp import notes_on_averages, reasons
from xmas.results.leaderboard_rows import not_nested
from xmas.results.statistics.intervals import BASELINE
from xmas.results.table.evidence import Evidence


def of_scores(found: Evidence) -> list[str]:
    """What the numbers rest on, and which ARPs are missing and why."""
    comparison = found.comparison
    counts = sorted({len(row.seeds) for row in comparison.rows})
    seeds = " to ".join(str(count) for count in sorted({counts[0], counts[-1]}))
    asked = ", ".join(
        f"{name} {run.num:,} ({run.split}, {run.metric})"
        for name, run in comparison.benchmarks.items()
    )
    protocols = dict.fromkeys(run.protocol for run in comparison.benchmarks.values())
    notes = [
        f"Seeds: {seeds} a row, as its column says; mean ± sample standard deviation over them",
        f"Questions: {asked}",
        f"Answers: {'; '.join(protocols)}",
        "ARP: mean over the benchmarks of 100 * score / mean score of the reference",
        *notes_on_averages([*comparison.benchmarks]),
    ]
    if comparison.unreferenced:
        notes.append(
            f"No ARP: no reference score above 0 on {', '.join(comparison.unreferenced)}; train "
            "the target on the whole pool (goal=scores selector=full)"
        )
    if note := not_nested(comparison.rows):
        notes.append(note)
    for row in comparison.rows:
        for seed in row.gaps:
            for reason in reasons([*comparison.benchmarks], {seed: row.gaps[seed]}, ()):
                notes.append(f"No ARP for {row.label}, {row.budget_text}: {reason}")
    return notes


def of_standing(found: Evidence) -> list[str]:
    """How intervals, p and hours came about."""
    tested = [one.against for one in found.certainties if one.against and one.against.p is not None]
    notes = [
        "95 %: from a bootstrap over seeds and then questions, the same questions for all rows; "
        "of one seed over questions alone, which says nothing about training",
        f"vs {BASELINE}: points of ARP above {BASELINE} at the same budget, both drawn together; "
        f"p: Holm's, for {len(tested)} comparisons with {BASELINE} in this table, * below 0.05; "
        "none where one of both has a single seed",
        "rank: by ARP within its budget; mean rank: over the benchmarks, among rows that have all",
    ]
    lacking = _without_outcomes(found)
    if lacking:
        notes.append(
            f"No interval where scores keep no outcomes of questions: {', '.join(lacking)}"
        )
    devices = sorted({name for spent in found.costs if spent for name in spent.devices})
    if devices:
        notes.append(
            f"Hours: of {'; '.join(devices)}, as recorded, all devices at work added up, mean over "
            "seeds; a stage that several rows share counts whole in each, what all runs need alike "
            "in none. total / full: only where all was measured on one kind of device"
        )
    notes += [
        f"R² of the features of {label} against text length, by step: "
        + ", ".join(f"{step}: {share:.2f}" for step, share in shares.items())
        for label, shares in found.lengths.items()
    ]
    return notes


def _without_outcomes(found: Evidence) -> list[str]:
    lost = {
        name: None
        for row, known in zip(found.comparison.rows, found.certainties, strict=True)
        for name, mean in row.scores.items()
        if name not in known.scores and mean.seeds == len(row.seeds)
    }
    return list(lost)
