"""Text from pools, stores and users, written so that it stays text: a function for each format.

All that is shown of them passes one of these: a pool's name may be `=HYPERLINK(...)`, a version
`<script>`, a source may have a `|` or a line end with `\\input{...}`.
"""

import html
import re

from markupsafe import Markup

from xmas.store.printable import one_line, printable

_FORMULA = ("=", "+", "-", "@")  # where a cell of a spreadsheet starts to be computed

_MARKDOWN = str.maketrans({"|": "&#124;", "<": "&lt;"})
_LINK = re.compile(r"\](?=[(\[:])")  # of [text](address), [text][name] and [name]: address

_LATEX = str.maketrans(
    {
        **{mark: f"\\{mark}" for mark in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "²": r"\textsuperscript{2}",
        "\N{EN DASH}": "--",
    }
)


def html_text(value: object) -> Markup:
    """Text as HTML; markup stays as it is.

    >>> html_text("<b> & é")
    Markup('&lt;b&gt; &amp; é')
    """
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(printable(str(value)), quote=False))


def html_attribute(value: object) -> str:
    """The value of an attribute in double quotes."""
    return html.escape(printable(str(value)))


def markdown_text(value: object) -> str:
    """Text in a line or a cell: no markup of HTML, no other cell, no link, no image.

    >>> markdown_text("a | <b>, [x](y)")
    'a &#124; &lt;b>, [x\\\\](y)'
    """
    return _LINK.sub(r"\\]", one_line(value).translate(_MARKDOWN))


def latex_text(value: object) -> str:
    r"""Text in a line or a cell. An opening bracket or star after `\\` would be its option.

    >>> latex_text("[50 %_")
    '{[}50 \\%\\_'
    """
    escaped = one_line(value).translate(_LATEX)
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped.startswith(("[", "*")) else escaped


def csv_text(value: str) -> str:
    """Text in a cell that no spreadsheet takes for a formula.

    >>> csv_text("=1+1"), csv_text("random")
    ("'=1+1", 'random')
    """
    cell = one_line(value)
    return f"'{cell}" if cell.lstrip().startswith(_FORMULA) else cell
