"""What the study found, next to what the exam said of the same selectors.

    python experiments/study/compare.py TABLE.csv [EXAM.csv] > experiments/study/study.md

TABLE.csv is what `xmas goal=table` wrote for the store of `study.py`, EXAM.csv is
`experiments/exam/exam.csv` unless given. First every selector's ARP over that of `random` at the
same budget, with the table's interval and p, before and after Holm's correction for all
comparisons. Then, for each figure of the exam, its rank correlation over selectors with that
difference, with a bootstrap interval over selectors.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xmas.results.exam.measures import correlation

DRAWS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", nargs="?", type=Path)
    parser.add_argument(
        "exam", nargs="?", type=Path, default=Path(__file__).parents[1] / "exam/exam.csv"
    )
    parser.add_argument("--tiny", action="store_true", help="the example of a test, no files")
    options = parser.parse_args()
    if options.tiny:
        rng = np.random.default_rng(0)
        first = rng.permutation(9).astype(float)
        print(interval(first, first + rng.normal(size=9), draws=50))
        return
    differences = above_random(options.table)
    budgets = sorted({budget for _, budget in differences})
    sys.stdout.writelines(f"{line}\n" for line in against_random(options.table, budgets))
    print()
    marks = exam_marks(options.exam)
    print("| figure of the exam | budget | selectors | rank correlation with ARP |")
    print("|---|---:|---:|---:|")
    for figure in sorted({figure for _, _, figure in marks}):
        for budget in budgets:
            pairs = [
                (value, differences[name, budget])
                for (name, of_budget, at), value in marks.items()
                if at == figure and of_budget == budget and (name, budget) in differences
            ]
            if len(pairs) < 8 or len({value for value, _ in pairs}) < 3:
                continue
            first, second = np.array(pairs).T
            low, high = interval(first, second)
            rank = correlation(first, second)
            print(
                f"| {figure} | {budget:g} | {len(pairs)} | {rank:+.2f} [{low:+.2f}, {high:+.2f}] |"
            )


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def arps(table: Path) -> Iterator[dict[str, str]]:
    """The lines of measured ARPs but those of the reference."""
    for line in lines(table):
        if (
            line["benchmark"] == "ARP"
            and line["origin"] == "measured"
            and line["selector"] != "full"
        ):
            yield line


def above_random(table: Path) -> dict[tuple[str, float], float]:
    """ARP minus that of `random`, by selector and budget; 0 for `random`."""
    return {
        (line["selector"], float(line["budget"])): float(line["above_random"] or 0)
        for line in arps(table)
    }


def against_random(table: Path, budgets: list[float]) -> Iterator[str]:
    yield "| selector | budget | seeds | ARP | minus random | p | p, Holm | OSC |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for budget in budgets:
        of_budget = [line for line in arps(table) if float(line["budget"]) == budget]
        for line in sorted(of_budget, key=lambda line: -float(line["relative"])):
            arp = f"{float(line['relative']):.1f}"
            if line["relative_sd"]:
                arp += f" ± {float(line['relative_sd']):.1f}"
            cells = ["", "", ""]
            if line["above_random"]:
                low, high = float(line["above_random_low"]), float(line["above_random_high"])
                difference = f"{float(line['above_random']):+.1f} [{low:+.1f}, {high:+.1f}]"
                chances = [
                    f"{float(line[name]):.{places}f}" if line[name] else ""
                    for name, places in (("p", 3), ("p_holm", 2))
                ]
                cells = [difference, *chances]
            osc = f"{float(line['osc']):.2f}" if line["osc"] else ""
            name, seeds = line["selector"], line["seeds"]
            yield f"| {name} | {budget:.0%} | {seeds} | {arp} | {' | '.join(cells)} | {osc} |"


def exam_marks(exam: Path) -> dict[tuple[str, float, str], float]:
    """The exam's figures by selector, budget and name."""
    return {
        (line["selector"], float(line["budget"]), f"{line['part']}: {line['name']}"): float(
            line["value"]
        )
        for line in lines(exam)
        if line["budget"] and line["value"] not in ("", "nan") and line["part"] != "order"
    }


def interval(first: np.ndarray, second: np.ndarray, draws: int = DRAWS) -> tuple[float, float]:
    """95 % of the rank correlations over selectors drawn with replacement."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(first), size=(draws, len(first)))
    ranks = [correlation(first[rows], second[rows]) for rows in drawn]
    return tuple(np.nanquantile(ranks, [0.025, 0.975]).tolist())


if __name__ == "__main__":
    main()
