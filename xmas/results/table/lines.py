"""The table as CSV: a line for every row and benchmark, at full precision, for anything to read."""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from xmas.results.arp import ALL
from xmas.results.leaderboard_rows import Cell, Row
from xmas.results.statistics.bootstrap import Interval
from xmas.results.table.evidence import Evidence
from xmas.results.table.grids import span

COLUMNS: tuple[str, ...] = (
    "origin", "source", "pool", "reference_group", "target", "selector", "budget", "unit", "rows",
    "seeds", "benchmark", "split", "metric", "protocol", "num", "score", "score_sd", "score_low",
    "score_high", "relative", "relative_sd", "relative_low", "relative_high", "rank", "mean_rank",
    "above_random", "above_random_low", "above_random_high", "p", "p_holm", "selection_hours",
    "training_hours", "total_of_full", "devices", "r2_length",
)  # fmt: skip


def as_csv(found: Iterable[Evidence]) -> str:
    """Measured rows first, then published ones, told apart by `origin`; empty where unknown.

    Every ARP is a benchmark of its own. `r2_length` is `step:R²` for every snapshot.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for one in found:
        writer.writerows(_measured(one))
        writer.writerows(_published(one))
    return text.getvalue()


def _measured(found: Evidence) -> Iterator[dict[str, Any]]:
    comparison = found.comparison
    for number, (row, known) in enumerate(zip(comparison.rows, found.certainties, strict=True)):
        about = {
            "origin": "measured",
            "pool": comparison.pool,
            "reference_group": comparison.reference_group,
            "selector": row.label,
            "budget": row.budget,
            "unit": "" if row.budget <= 1 else row.unit,
            "rows": span(row, "{}"),
        }
        for name, run in comparison.benchmarks.items():
            score = row.scores.get(name)
            of_benchmark = {"split": run.split, "metric": run.metric, "num": run.num}
            yield {
                **about,
                "benchmark": name,
                **of_benchmark,
                "protocol": run.protocol,
                "seeds": score.seeds if score else 0,
                **_mean("score", score, known.scores.get(name)),
                **_mean("relative", row.relative.get(name), known.relative.get(name)),
            }
        for name in comparison.averages:
            arp = row.arps.get(name)
            yield {
                **about,
                "benchmark": name,
                "seeds": arp.seeds if arp else 0,
                **_mean("relative", arp, known.arps.get(name)),
                **(_standing(found, number, row) if name == ALL else {}),
            }


def _standing(found: Evidence, number: int, row: Row) -> dict[str, Any]:
    line: dict[str, Any] = {"rank": row.rank, "mean_rank": row.mean_rank}
    if against := found.certainties[number].against:
        line |= {"above_random": against.points, "p": against.p, "p_holm": against.adjusted}
        line |= _bounds("above_random", against.interval)
    if spent := found.costs[number]:
        line |= {
            "selection_hours": spent.selection / 3600,
            "training_hours": spent.seconds["target"] / 3600,
            "total_of_full": found.of_full(number),
            "devices": "; ".join(sorted(spent.devices)),
        }
    shares = found.lengths.get(row.label, {})
    return line | {"r2_length": " ".join(f"{step}:{share:.4f}" for step, share in shares.items())}


def _published(found: Evidence) -> Iterator[dict[str, Any]]:
    for one in found.published:
        for name, value in one.scores.items():
            column = {ALL: "relative", "total_of_full": "total_of_full"}.get(name, "score")
            yield {
                "origin": f"published, {one.kind}",
                "source": "; ".join([one.source, *one.notes]),
                "pool": one.pool,
                "target": one.target,
                "selector": one.selector,
                "budget": one.budget,
                "benchmark": ALL if name == "total_of_full" else name,
                column: value,
            }


def _mean(name: str, mean: Cell | None, held: Interval | None) -> dict[str, Any]:
    numbers = {} if mean is None else {name: mean.mean, f"{name}_sd": mean.sd}
    return numbers | _bounds(name, held)


def _bounds(name: str, held: Interval | None) -> dict[str, float]:
    return {} if held is None else {f"{name}_low": held.low, f"{name}_high": held.high}
