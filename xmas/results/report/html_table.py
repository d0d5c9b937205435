"""The tables of `grids` as HTML."""

from xmas.results.grids import Grid
from xmas.results.report.svg import scrolled_table, tag, text
from xmas.results.view import TextCell


def html_table(grid: Grid) -> str:
    """A table and its notes; spreads are set apart, the best of every budget is bold."""
    rows = [[cell_markup(cell) for cell in row] for row in grid.rows]
    bold = (
        ["Bold: the best of its budget"]
        if any(cell.best for row in grid.rows for cell in row)
        else []
    )
    notes = [tag("li", text(f"{note}.")) for note in [*bold, *grid.notes]]
    head = [_unbroken(name) for name in grid.head]
    return scrolled_table(head, rows, "scores") + tag("ul", *notes, class_="notes")


def cell_markup(cell: TextCell) -> str:
    """A cell as markup."""
    spread = tag("span", text(cell.spread), class_="sd") if cell.spread else ""
    whole = _unbroken(cell.text) + spread + text(cell.suffix)
    return tag("b", whole) if cell.best else whole


def _unbroken(words: str) -> str:
    """As markup in which a per cent sign stays on the line of its number."""
    return text(words).replace(" %", "\N{NO-BREAK SPACE}%")
