"""The heat map: every benchmark of every row, relative to training on everything."""

from xmas.results.evidence import Evidence
from xmas.results.report.palette import Palette
from xmas.results.report.svg import figure, scrolled_table, tag, text
from xmas.store.index import AbsentError

_GAP = "\N{EN DASH}"


def benchmarks(evidence: Evidence, palette: Palette) -> str:
    """A line for every subset row, a column for every benchmark.

    Raises AbsentError: no row can be related to a reference.
    """
    names = [name for name in evidence.leaderboard.benchmarks if _known(evidence, name)]
    if not names:
        raise AbsentError("No heat map: no benchmark has a reference score above 0.")
    values = [line.row.relative[name].mean for line in evidence.subsets for name in names
              if name in line.row.relative]  # fmt: skip
    low, high = min(values), max(values)
    rows = []
    for line in evidence.subsets:
        about = text(line.row.label) + tag("span", f" {line.budget}", class_="sd")
        cells = [tag("span", about, class_=palette[line.selector])]
        for name in names:
            cell = line.row.relative.get(name)
            share = 0.0 if cell is None or high == low else (cell.mean - low) / (high - low)
            number = _GAP if cell is None else f"{cell.mean:.0f}"
            bold = tag("b", number) if cell is not None and cell.mean >= 100 else number
            cells.append(tag("span", bold, class_="cell", style=f"--share:{100 * share:.0f}%"))
        rows.append(cells)
    return figure(
        scrolled_table(["", *map(text, names)], rows, "matrix heat"),
        f"Scores in per cent of the target trained on everything, mean over the seeds; from "
        f"{low:.0f} (pale) to {high:.0f}. Bold: as good as everything, or better."
        + _left_out(evidence, names),
    )


def _known(evidence: Evidence, name: str) -> bool:
    return any(name in line.row.relative for line in evidence.subsets)


def _left_out(evidence: Evidence, names: list[str]) -> str:
    lost = [name for name in evidence.leaderboard.benchmarks if name not in names]
    return f" Left out, without a reference score above 0: {', '.join(lost)}." if lost else ""
