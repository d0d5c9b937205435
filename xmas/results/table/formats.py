"""Grids as Markdown and as LaTeX. Markdown is padded: it is also what the terminal shows."""

from collections.abc import Iterable

from xmas.results.escaping import latex_text, markdown_text
from xmas.results.grids import Grid
from xmas.store.printable import one_line


def markdown(grids: Iterable[Grid]) -> str:
    """A padded table for each grid, its title above and its notes below."""
    blocks = []
    for grid in grids:
        cells = [[markdown_text(cell) for cell in row] for row in [grid.head, *grid.rows]]
        widths = [max(2, *map(len, column)) for column in zip(*cells, strict=True)]
        lines = [_line(row, widths) for row in cells]
        rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
        lines.insert(1, _line(rule, widths))
        notes = [f"- {markdown_text(note)}" for note in grid.notes]
        title = f"## {markdown_text(grid.title)}"
        blocks.append("\n".join([title, "", *lines, "", *notes, ""]))
    return "\n".join(blocks)


def latex(grids: Iterable[Grid]) -> str:
    """A booktabs `tabular` for each grid, title and notes as comments."""
    blocks = ["% needs \\usepackage{booktabs}"]
    for grid in grids:
        head, *body = [
            " & ".join(map(latex_text, cells)) + r" \\" for cells in [grid.head, *grid.rows]
        ]
        about = [f"% {one_line(line)}" for line in [grid.title, *grid.notes]]
        columns = "l" + "r" * (len(grid.head) - 1)
        begin = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule"]
        blocks.append("\n".join([*about, *begin, *body, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(blocks) + "\n"


def _line(cells: list[str], widths: list[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "| " + " | ".join([first[0].ljust(first[1]), *(c.rjust(w) for c, w in others)]) + " |"
