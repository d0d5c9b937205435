"""The table as CSV: a line for every row and benchmark, at full precision, for programs to read."""

import csv
import io
from collections.abc import Iterable, Iterator

from xmas.results import view
from xmas.results.arp import ALL
from xmas.results.escaping import csv_text
from xmas.results.evidence import Evidence, Line
from xmas.results.leaderboard_rows import Cell
from xmas.results.statistics.bootstrap import Interval
from xmas.results.view import SCORES, TableColumn, Value, interval_fields

ABOUT_PUBLISHED = ("origin", "source", "pool", "reference_group", "target")
OF_BENCHMARK = (
    "seeds", "benchmark", "split", "metric", "protocol", "num", "score", "score_sd", "score_low",
    "score_high", "relative", "relative_sd", "relative_low", "relative_high", "missing",
)  # fmt: skip


def csv_fields() -> tuple[str, ...]:
    """The header: whose number it is, the row, the score on one benchmark, the rest of the row."""
    return (
        *ABOUT_PUBLISHED,
        *(name for column in _of_every_line() for name in column.field_names),
        *OF_BENCHMARK,
        *(name for column in _of_arp_lines() for name in column.field_names),
    )


def as_csv(leaderboards: Iterable[Evidence]) -> str:
    """Measured rows first, then published ones, told apart by `origin`; empty where unknown.

    Every ARP has a line as a benchmark has; `missing` says why a row has none. So has each source
    of a benchmark's questions, `heldout: coco`.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, csv_fields(), restval="", lineterminator="\n")
    writer.writeheader()
    for evidence in leaderboards:
        for line in evidence.lines:
            writer.writerows(map(_escaped, _measured(evidence, line)))
        writer.writerows(map(_escaped, _published(evidence)))
    return text.getvalue()


def _escaped(fields: dict[str, Value]) -> dict[str, Value]:
    return {
        name: csv_text(value) if isinstance(value, str) else value for name, value in fields.items()
    }


def _measured(evidence: Evidence, line: Line) -> Iterator[dict[str, Value]]:
    leaderboard, row, certainty = evidence.leaderboard, line.row, line.certainty
    about: dict[str, Value] = {
        "origin": "measured",
        "pool": leaderboard.pool,
        "reference_group": leaderboard.reference_group,
    }
    for column in _of_every_line():
        about |= column.fields(line)
    for name, run in leaderboard.benchmarks.items():
        score = row.scores.get(name)
        yield {
            **about,
            "benchmark": name,
            "split": run.split,
            "metric": run.metric,
            "num": run.num,
            "protocol": run.protocol,
            "seeds": score.seeds if score else 0,
            **_mean("score", score, certainty.scores.get(name)),
            **_mean("relative", row.relative.get(name), certainty.relative.get(name)),
        }
        for source, of_source in row.sources(name).items():
            yield {
                **about,
                "benchmark": f"{name}: {source}",
                "split": run.split,
                "metric": run.metric,
                "protocol": run.protocol,
                "seeds": of_source.seeds,
                **_mean("score", of_source, None),
            }
    for name in leaderboard.averages:
        arp = row.arps.get(name)
        of_row: dict[str, Value] = {}
        for column in _of_arp_lines() if name == ALL else ():
            of_row |= column.fields(line)
        yield {
            **about,
            "benchmark": name,
            "seeds": arp.seeds if arp else 0,
            **_mean("relative", arp, certainty.arps.get(name)),
            "missing": "; ".join(leaderboard.why_no_arp(row, name)),
            **of_row,
        }


def _published(evidence: Evidence) -> Iterator[dict[str, Value]]:
    for result in evidence.published:
        for name, value in result.scores.items():
            field = {ALL: "relative", "total_of_full": "total_of_full"}.get(name, "score")
            yield {
                "origin": f"published, {result.kind}",
                "source": "; ".join([result.source, *result.notes]),
                "pool": result.pool,
                "target": result.target,
                "selector": result.selector,
                "budget": result.budget,
                "benchmark": ALL if name == "total_of_full" else name,
                field: value,
            }


def _of_every_line() -> list[TableColumn]:
    return [column for column in view.COLUMNS if SCORES in column.tables]


def _of_arp_lines() -> list[TableColumn]:
    return [column for column in view.COLUMNS if SCORES not in column.tables]


def _mean(name: str, mean: Cell | None, interval: Interval | None) -> dict[str, Value]:
    numbers: dict[str, Value] = {} if mean is None else {name: mean.mean, f"{name}_sd": mean.sd}
    return numbers | interval_fields(name, interval)
